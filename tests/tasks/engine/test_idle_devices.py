"""What a run says of devices that a training leaves idle, or lacks."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fewstep.util.config import parse
from tasks.config.schema import Settings
from tasks.engine import graph, idle_devices
from tests.project import ROOT


@pytest.fixture
def host(monkeypatch):
    """Sets how many GPUs this host has, and how large a given teacher is."""

    def have(gpus: int, parameters: int = 2_600_000_000) -> None:
        monkeypatch.setattr(idle_devices, "gpus", lambda: gpus)
        monkeypatch.setattr(idle_devices, "inspect_teacher", lambda *_: SimpleNamespace(parameters=parameters))

    return have


def said(compute: dict, stage: str = "distill", given: bool = False, **more) -> list[str]:
    settings = {"compute": compute, "distill": {"recipe": "dmd2"}, **more}
    settings |= {"teacher": {"source": "/models/sdxl"}} if given else {}
    return idle_devices.said_of(graph.stage(stage), Path("/nowhere"), parse(Settings, settings, "test"))


@pytest.mark.parametrize(("gpus", "compute", "distill", "words"), [
    (2, {}, {}, ["trains on 1 of the 2 GPUs that compute has: its batch has 1 part (distill.parts)",
                 "distill.parts=2 has 2 of them share it"]),
    (8, {}, {"parts": 2}, ["on 2 of the 8 GPUs", "has 2 parts", "distill.parts=8"]),
    (8, {"nodes": 2, "on": "slurm"}, {"batch": 48}, ["on 1 of the 16 GPUs of 2 nodes", "distill.parts=16"]),
    (0, {"nodes": 2, "on": "slurm"}, {}, ["on 1 of the 2 processes of 2 nodes", "distill.parts=2"]),
    (8, {}, {"batch": 4, "parts": 4}, ["on 4 of the 8 GPUs", "a batch of another size (now 4) can be shared by more"]),
    (6, {}, {"batch": 32}, ["on 1 of the 6 GPUs", "distill.parts=4 has 4 of them share it"]),
])  # fmt: skip
def test_devices_without_work_are_named_with_the_setting_that_gives_them_some(host, gpus, compute, distill, words):
    host(gpus)
    (text,) = said(compute, distill={"recipe": "dmd2", **distill})
    assert all(word in text for word in words), text


@pytest.mark.parametrize(("gpus", "compute", "parts"), [(0, {}, 1), (1, {}, 1), (2, {"processes": 1}, 1), (2, {}, 8),
                                                        (8, {"nodes": 1}, 8), (4, {"nodes": 2, "on": "slurm"}, 8)])
def test_nothing_is_said_where_all_have_work(host, gpus, compute, parts):
    host(gpus)
    assert not said(compute, distill={"recipe": "dmd2", "parts": parts})


def test_a_teacher_that_is_trained_here_has_parts_of_its_own(host):
    host(4)
    (text,) = said({}, "teacher")
    assert "'teacher' trains on 1 of the 4 GPUs" in text and "teacher.parts=4" in text
    assert not said({}, "teacher", given=True) and not said({}, "evaluate")


@pytest.mark.parametrize("on", ["slurm:gpu", "ray://head:10001", "ray", "pool:gpus"])
def test_a_run_on_a_host_without_a_gpu_is_told_that_it_trains_there(host, on):
    host(0)
    (text,) = said({"on": on}, given=True)
    assert "'distill' trains on this host, which has no GPU" in text and f"compute.on ({on})" in text
    assert (ROOT / idle_devices.PAGE).is_file() and idle_devices.PAGE in text
    assert not said({"on": "local"}, given=True) and not said({"on": on})
    host(1)
    assert not said({"on": on}, given=True)
    host(0, parameters=1000)
    assert not said({"on": on}, given=True)


def test_no_torch_is_loaded_where_there_is_no_driver(monkeypatch):
    monkeypatch.setattr(idle_devices, "_DRIVERS", ("/dev/no-such-driver",))
    assert idle_devices.gpus() == 0


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_examples_of_large_teachers_are_shared_by_2_4_and_8_gpus(host, path, gpus):
    host(gpus)
    settings = parse(Settings, yaml.safe_load(path.read_text()), path.name)
    texts = idle_devices.said_of(graph.stage("distill"), ROOT, settings)
    if path.stem not in ("emoji", "sdxl-dmd2", "sd3-tdm"):
        assert not texts, texts
    elif path.stem != "emoji":      # no room for sums of several parts on one GPU: the setting depends on their number
        passes = settings.distill.accumulate
        assert f"distill.parts={gpus} with distill.accumulate={max(1, passes // gpus)} has {gpus} of them" in texts[0]
        assert f"distill.parts=N --set distill.accumulate={passes}/N" in path.read_text()

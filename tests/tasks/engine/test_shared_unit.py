"""Units of work that processes share: the bits of one process, the errors and the ends of any of them."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from fewstep.util.config import parse
from fewstep.util.errors import SettingsError, StageFailed
from tasks.config.schema import Settings
from tasks.engine import graph, shared_unit
from tests.tasks.stages.evaluation_world import Listener, World, contents

SETTINGS = {
    "teacher": {"images": 640, "batch": 32, "parts": 2, "channels": [8],
                "check": {"samples": 64, "steps": 4, "max_distance_ratio": 20}},
    "trajectories": {"count": 32, "steps": 2, "record_size": 16},
    "distill": {"recipe": "kd", "images": 640, "batch": 32, "parts": 2},
}  # fmt: skip


class AtImages(Listener):
    """Calls `act` once, when so many images are done."""

    def __init__(self, images: int, act):
        super().__init__()
        self.images, self.act = images, act

    def stage_progress(self, stage, done, total, unit, metrics, step):
        if unit == "images" and done >= self.images and self.act is not None:
            act, self.act = self.act, None
            act()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    torch.set_num_threads(1)
    made = World(tmp_path_factory.mktemp("shared"))
    made.settings = parse(Settings, SETTINGS, "test")
    for stage in ("shard", "teacher", "trajectories"):
        made.run(stage)
    return made


def worked(world: World, name: str, work: str, processes: int | None, observer: Listener | None = None,
           parallel: str = "replicate", reshard: bool = False) -> dict:  # fmt: skip
    """What the stage makes with so many processes."""
    context, stage = world.context(name, work), graph.stage(name)
    context.reshard = reshard
    context.processes, context.checkpoint_images, context.parallel = processes, 128, parallel
    context.observer = observer or context.observer
    for unit in stage.units(context):
        shared_unit.run_unit(stage, context, unit)
    stage.finish(context)
    return contents(context.out)


class HearsRanks(AtImages):
    """Keeps what is told of each process: the unit, its number, where, and its error."""

    def __init__(self, images: int = 0, act=None):
        super().__init__(images, act)
        self.ranks = []

    def rank_finished(self, stage, unit, rank, place, began, ended, error):
        assert 0 < began <= ended
        self.ranks.append((unit, rank, place, error and str(error)))

    def unit_finished(self, stage, unit, began, ended, error):
        self.ranks.append((unit, "all", None, error and str(error)))


def further() -> list[int]:
    """Process ids of the further processes of this one."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(child) for child in children
            if b"tasks.engine.group.ranks" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("name", [pytest.param("teacher", marks=pytest.mark.slow), "distill"])
def test_a_stage_of_two_processes_makes_the_bytes_of_one_and_each_continues_the_other_s_work(name, world):
    seen = []

    def stop():
        seen.append(len(further()))
        raise KeyboardInterrupt

    alone = worked(world, name, f"{name}-1", 1)
    for first, then in ((2, 1), (1, 2)):
        with pytest.raises(KeyboardInterrupt):
            worked(world, name, f"{name}-{first}-{then}", first, AtImages(256, stop))
        assert not further()
        assert worked(world, name, f"{name}-{first}-{then}", then) == alone
    assert seen == [1, 0]


def test_a_process_that_is_killed_ends_the_unit_by_name_and_its_checkpoint_is_gone_on_from(world):
    alone, here = worked(world, "distill", "kill-1", 1), socket.gethostname()
    killed, undisturbed = HearsRanks(256, lambda: os.kill(further()[0], signal.SIGKILL)), HearsRanks()
    with pytest.raises(StageFailed, match="process 2 of 2 that share 'round-1' .*'distill' was ended by SIGKILL") as e:
        worked(world, "distill", "kill-2", 2, killed)
    assert killed.ranks == [("round-1", 0, here, None), ("round-1", 1, here, str(e.value)),
                            ("round-1", "all", None, str(e.value))]  # fmt: skip
    assert sorted((world.root / "work" / "kill-2").rglob("step-*.json"))
    assert worked(world, "distill", "kill-2", 2, undisturbed) == alone
    assert undisturbed.ranks == [("round-1", 0, here, None), ("round-1", 1, here, None),
                                 ("round-1", "all", None, None)]  # fmt: skip


def test_where_a_further_process_failed_is_in_the_log(world, monkeypatch, caplog):
    """Told of another stage, whose settings these are not."""
    context, stage = world.context("teacher", "nowhere"), graph.stage("teacher")
    context.processes = 2
    message = shared_unit.Message
    monkeypatch.setattr(shared_unit, "Message", lambda **given: message(**{**given, "stage": "shard"}))
    with pytest.raises(SettingsError, match="images: unknown key"):
        shared_unit.run_unit(stage, context, "train")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "tasks.engine.group.ranks"]
    assert "said:" in said and "Traceback" in said


def test_what_a_further_process_raises_is_what_the_unit_raises(world, monkeypatch):
    """Told another seed, it sees that it is about to train something else."""
    context, stage = world.context("teacher", "error"), graph.stage("teacher")
    context.processes = 2
    message = shared_unit.Message
    monkeypatch.setattr(shared_unit, "Message", lambda **given: message(**{**given, "seed": 5}))
    with pytest.raises(SettingsError, match="process 1 of 2 differs from process 0 in what it is about to train"):
        shared_unit.run_unit(stage, context, "train")


@pytest.mark.parametrize(("parts", "processes", "room", "size"), [
    (1, None, 8, 1), (2, None, 8, 2), (8, None, 3, 2), (8, None, 4, 4), (6, None, 4, 3), (4, 1, 8, 1), (4, 16, 1, 4),
    (3, None, 2, 1),
])
def test_as_many_processes_as_the_parts_and_the_machine_allow(parts, processes, room, size, world, monkeypatch):
    monkeypatch.setattr("fewstep.training.distributed.devices", lambda: room)
    world.settings = parse(Settings, {**SETTINGS, "teacher": {**SETTINGS["teacher"], "batch": 48, "parts": parts}}, "t")
    context = world.context("teacher", "sizes")
    context.processes = processes
    assert shared_unit._layout(graph.stage("teacher"), context) == (1, size)


def test_shards_are_gone_on_from_bit_for_bit_by_as_many_processes_and_no_others(world):
    """Killed in the middle, refused to one process with words, and at the end whole."""
    def sharded(work: str, processes: int, observer: Listener | None = None) -> dict:
        return worked(world, "distill", work, processes, observer, parallel="shard")

    undisturbed = sharded("shards", 2)
    with pytest.raises(StageFailed, match="process 2 of 2 that share 'round-1' .*'distill' was ended by SIGKILL"):
        sharded("shards-killed", 2, AtImages(256, lambda: os.kill(further()[0], signal.SIGKILL)))
    with pytest.raises(SettingsError, match="of 2 processes that hold rows of every tensor each") as refused:
        sharded("shards-killed", 1)
    assert "compute.parallel: shard, compute.processes: 2" in refused.value.hint
    assert sharded("shards-killed", 2) == undisturbed
    alone = worked(world, "distill", "shards-alone", 1)
    assert undisturbed.keys() == alone.keys()


def test_a_whole_checkpoint_is_refused_to_processes_that_would_shard_it(world):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worked(world, "distill", "whole-first", 2, AtImages(256, stop))
    words = "is of one process, and of 2 processes each is to hold its rows"
    with pytest.raises(SettingsError, match=words) as refused:
        worked(world, "distill", "whole-first", 2, parallel="shard")
    assert "compute.parallel: replicate" in refused.value.hint


def tensors(made: dict[str, bytes]) -> torch.Tensor:
    """All that the student has learnt."""
    loaded = [load(content) for name, content in made.items() if name.endswith(".safetensors")]
    return torch.cat([one[name].double().flatten() for one in loaded for name in sorted(one)])


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_shards_are_laid_out_anew_for_another_number_of_processes_where_that_is_asked_for(world, first, then):
    """The student is that of one process but for the order of sums, here of float64."""
    world.settings = parse(Settings, {**SETTINGS, "distill": {**SETTINGS["distill"], "precision": "float64"}}, "test")

    def stop():
        raise KeyboardInterrupt

    alone = tensors(worked(world, "distill", "anew-alone", 1))
    begun, work, observer = contents(world.root / "data" / "teacher"), f"anew-{first}-{then}", Listener()
    with pytest.raises(KeyboardInterrupt):
        worked(world, "distill", work, first, AtImages(256, stop), parallel="shard")
    made = worked(world, "distill", work, then, observer, parallel="shard", reshard=True)
    assert sum("it is laid out anew, as compute.reshard says: from step" in text for text in observer.warnings) == 1
    assert observer.progress[0][0] > 128, "it goes on"
    apart, way = (tensors(made) - alone).norm(), (tensors(made) - tensors(begun)).norm()
    assert apart <= 1e-6 * way, (apart, way)
    record = sorted((world.root / "work" / work).rglob("step-*.json"))[-1].read_text()
    known = {1: None, 2: 2}
    assert [one.get("shards") for one in json.loads(record)["fingerprints"]] == [known[first], known[then]]


@pytest.mark.parametrize(("parts", "told"), [(2, False), (1, True)])
def test_where_a_batch_has_one_part_shards_share_nothing_which_is_said(world, parts, told):
    world.settings = parse(Settings, {**SETTINGS, "distill": {**SETTINGS["distill"], "parts": parts}}, "test")
    context = world.context("distill", f"check-{parts}")
    context.parallel, context.observer = "shard", Listener()
    graph.stage("distill").check(context)
    assert any("set distill.parts" in text for text in context.observer.warnings) == told

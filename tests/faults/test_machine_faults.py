"""What a machine does to a run: a disk that fills up, a clock that is set back, and many runs that begin at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.engine import graph
from tests.faults.rows import line_with
from tests.flows.conftest import Project, make_project
from tests.s3_server import BUCKET

pytestmark = [pytest.mark.faults, pytest.mark.timeout(0)]
SHIFTED_CLOCK = Path(__file__).with_name("shifted_clock.c")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Project:
    """A project whose run nothing disturbed."""
    project = make_project(tmp_path_factory.mktemp("machine") / "undisturbed")
    project.fewstep("run")
    return project


def manifests(project: Project) -> dict[str, bytes]:
    return {stage.name: (project.root / stage.output / "manifest.json").read_bytes() for stage in graph.IN_DVC}


def begins(project: Project, stage: str, process: subprocess.Popen) -> None:
    """Returns when the stage works."""
    while not any(line[0] == stage for line in project.journal()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own with 200 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a file system: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_disk_is_full_in_a_stage(small_disk, undisturbed, seen):
    project = make_project(small_disk / "project")
    project.control(distill={"seconds": 10**6})
    process = project.start("run")
    begins(project, "distill", process)
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            pass
    (project.root / "control.json").unlink()    # there is no room to write another
    out, err = process.communicate()
    assert process.returncode == 1, out + err
    message = line_with(err, "finished work is kept")
    filler.unlink()
    before = len(project.journal())
    assert project.json("resume")["state"] == "finished"
    assert not {line[0] for line in project.journal()[before:]} & {"shard", "classifier", "teacher", "trajectories"}
    assert manifests(project) == manifests(undisturbed) and project.json("verify")["warnings"] == []
    seen(fault="the disk full in a stage", code=1, message=message, resume="after space was made: 0")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
@pytest.mark.parametrize(("back", "code"), [(timedelta(minutes=10), 0), (timedelta(hours=2), 2)])
def test_the_clock_is_set_back_in_a_stage(tmp_path, undisturbed, s3_server, seen, back, code):
    """Leases go by the store's clock; a store refuses who is more than a quarter of an hour behind it."""
    project, clock, prefix = make_project(tmp_path / "project"), tmp_path / "clock", f"clock-{back.seconds}"
    subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-q", "-f", "-d", "store", f"s3://{BUCKET}/{prefix}"],
                   cwd=project.root, check=True)
    project.git("commit", "-qam", "a remote")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "clock.so", SHIFTED_CLOCK], check=True)
    environment = {**s3_server.environment, "LD_PRELOAD": str(tmp_path / "clock.so"), "CLOCK_SHIFT": str(clock)}
    project.control(distill={"seconds": 10**6})
    process = project.start("run", "--json", **environment)
    begins(project, "distill", process)
    clock.write_text(f"-{back.seconds}")
    project.control()
    out, err = process.communicate()
    assert process.returncode == code, out + err
    result = {"fault": f"the host's clock set back by {back} in a stage", "code": code}
    if code:
        result["message"] = line_with(err, "clock and the store's differ by too much")
        result["resume"] = "with the clock set right: 0"
        clock.unlink()
        before = len(project.journal())
        project.fewstep("resume", **environment)
        assert {line[0] for line in project.journal()[before:]} == {"register"}
    assert manifests(project) == manifests(undisturbed)
    announced = {name.rpartition("/")[2] for name in s3_server.names(f"{prefix}/fewstep/") if name.count("/") == 2}
    assert {f"{json.loads(text)['key']}.json" for text in manifests(project).values()} <= announced
    seen(**result)


def test_five_runs_begin_at_once_in_a_fresh_checkout(tmp_path, undisturbed, seen):
    project = make_project(tmp_path / "project")
    processes = [project.start("run", "--isolated", "--json", "--set", f"distill.images={100_000 + number}")
                 for number in range(5)]
    said = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, said
    assert {json.loads(out)["state"] for out, _ in said} == {"finished"}
    units = [tuple(line[:2]) for line in project.journal() if line[0] not in ("distill", "evaluate", "register")]
    assert len(set(units)) == len(units), "what the runs share was made more than once"
    assert len([line for line in project.journal() if line[0] == "distill"]) == 15
    seen(fault="five runs begun at once in a fresh checkout", code=0)

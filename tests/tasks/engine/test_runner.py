"""Runs of stages that are killed, disturbed, refused: what was finished stays, and the end is the same bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.engine import graph
from tasks.engine.unit_work import UnitWork
from tests.fake_project import ALL, FakeProject, plan
from tests.file_events import drawn
from tests.project import ROOT, kill_group

STAGES = [stage.name for stage in graph.STAGES if stage.in_dvc]
FEW = ["shard", "encode", "teacher", "reference", "classifier"]


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    return FakeProject(tmp_path_factory.mktemp("empty") / "project").folder


@pytest.fixture(scope="module")
def undisturbed(empty, tmp_path_factory) -> FakeProject:
    """Three stages made without a disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(empty, folder)
    project = FakeProject.at(folder)
    finish(project, *FEW)
    return project


@pytest.fixture
def project(empty, tmp_path) -> FakeProject:
    shutil.copytree(empty, tmp_path / "project")
    return FakeProject.at(tmp_path / "project")


def files(project: FakeProject) -> dict[str, bytes]:
    """Every byte of the outputs, the manifests included."""
    data = project.folder / "data"
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in sorted(data.rglob("*"))
            if path.is_file() and path.parts[-2] != "cost"}


def assert_clean(project: FakeProject) -> None:
    """Nothing is left of work in progress."""
    local = project.folder / ".fewstep"
    assert list((local / "partial").iterdir()) == []
    assert not (local / "trash").exists() or list((local / "trash").iterdir()) == []
    assert [path for path in project.folder.rglob(".fewstep-tmp-*") if ".git" not in path.parts] == []


def test_half_made_work_that_changed_code_leaves_aside_is_told_first(project):
    finish(project, "shard")
    running = project.start_python(ALL, "encode", FAKE_PAUSE="0.2", FAKE_MARKS=str(project.folder / "marks"))
    project.wait_for(project.folder / "marks" / "encode-c.started")
    kill_group(running)
    (work,) = (project.folder / ".fewstep" / "partial").iterdir()
    path = project.folder / "tasks" / "stages" / "encode.py"
    before = path.read_text()
    path.write_text(before + "\nRENAMED = 1\n")
    expected = f"half-made work is not continued, for its code has changed: .fewstep/partial/{work.name}"
    why = plan(project)["encode"]["why"]
    assert expected in why and "changed: tasks/stages/encode.py" in why

    interrupted = project.start_python(ALL, "encode", FAKE_PAUSE="0.2", FAKE_MARKS=str(project.folder / "again"))
    project.wait_for(project.folder / "again" / "encode-b.started")
    kill_group(interrupted)
    assert "WARNED encode " + expected in interrupted.stdout.read() and work.is_dir()
    assert len(list((project.folder / ".fewstep" / "partial").iterdir())) == 2
    again = project.python(ALL, "encode")   # goes on with its own work, of which everything was said
    assert again.returncode == 0 and "half-made" not in again.stderr
    cleaned = " ".join(project.check("clean").split())
    assert f"removed .fewstep/partial/{work.name}" in cleaned and "half-made work of encode" in cleaned


def test_the_former_code_continues_its_half_made_work(project):
    finish(project, "shard")
    running = project.start_python(ALL, "encode", FAKE_PAUSE="0.2", FAKE_MARKS=str(project.folder / "marks"))
    project.wait_for(project.folder / "marks" / "encode-c.started")
    kill_group(running)
    again = project.python(ALL, "encode", FAKE_MARKS=str(project.folder / "again"))
    assert again.returncode == 0 and "half-made" not in again.stderr
    assert not (project.folder / "again" / "encode-a.started").exists()
    assert_clean(project)


def finish(project: FakeProject, *stages: str) -> None:
    done = project.python(ALL, *stages)
    assert done.returncode == 0, done.stdout + done.stderr


EVENTS = f'''
import os, sys
sys.path.append({str(ROOT)!r})
from tests.file_events import FileEvents
events = FileEvents(os.getcwd(), int(sys.argv.pop(1)) or None)
'''


def killed(project: FakeProject, event: int) -> subprocess.Popen:
    """Makes the stages FEW in a process that dies before its event of this number (0: it tells how many there are)."""
    process = project.start_python(f"{EVENTS}{ALL}\nprint(events.count)", str(event), *FEW)
    process.wait()
    return process


@pytest.mark.parametrize("times", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_kill_at_any_moment_then_the_same_bytes(project, undisturbed, empty, tmp_path, times):
    """SIGKILL before random events of stages, publishing and recording, again and again until a start gets through."""
    shutil.copytree(empty, tmp_path / "counted")
    events, hits = int(_last(killed(FakeProject.at(tmp_path / "counted"), 0))), 0
    for number in drawn(events, times, random.Random(times)):
        process = killed(project, number)
        hits += process.returncode == -9
        assert process.returncode in (-9, 0), _last(process)
        process.stdout.close()
    assert hits >= 0.6 * times
    finish(project, *FEW)
    assert files(project) == files(undisturbed)
    assert_clean(project)
    assert (project.folder / "dvc.lock").read_bytes() == (undisturbed.folder / "dvc.lock").read_bytes()


def _last(process: subprocess.Popen) -> str:
    """The last line of what it wrote."""
    with process.stdout as output:
        return output.read().splitlines()[-1]


DIE = '''
import os, signal, sys
name, count = sys.argv[1], int(sys.argv[2])
sys.argv = sys.argv[:1] + sys.argv[3:]
calls = 0
def counted(real):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    return call
import tasks.engine.publish, fewstep.util.files, tasks.engine.manifest
module, function = name.rsplit(".", 1)
place = sys.modules[module]
setattr(place, function, counted(getattr(place, function)))
'''


@pytest.mark.parametrize(("place", "calls"), [
    ("os.rename", 4), pytest.param("os.replace", 8, marks=pytest.mark.slow),
    pytest.param("fewstep.util.files.sync_folder", 9, marks=pytest.mark.slow)])
def test_kill_before_each_step_of_publishing(project, undisturbed, place, calls):
    """An output takes the place of a former one; the process dies before the n-th rename, replace or sync."""
    finish(project, "shard")
    project.edit("source: digits", "source: digits, record_size: 17")
    reference = FakeProject.at(project.folder.parent / "reference")
    shutil.copytree(project.folder, reference.folder)
    finish(reference, "shard")
    killed = 0
    for count in range(1, calls + 1):
        trial = FakeProject.at(project.folder.parent / f"trial-{count}")
        shutil.copytree(project.folder, trial.folder)
        done = trial.python(DIE + ALL, place, str(count), "shard")
        killed += done.returncode == -9
        finish(trial, "shard")
        assert files(trial) == files(reference), f"killed before call {count} of {place}"
        assert_clean(trial)
        shutil.rmtree(trial.folder)
    assert killed == calls


def test_a_killed_stage_continues_with_the_work_that_is_missing(project):
    marks = project.folder.parent / "marks"
    process = project.start_python(ALL, "shard", FAKE_PAUSE="1.5", FAKE_MARKS=str(marks))
    project.wait_for(marks / "shard-c.started")
    kill_group(process)
    process.stdout.close()
    finish_marks = project.python(ALL, "shard", FAKE_MARKS=str(marks))
    assert finish_marks.returncode == 0
    done = {path.stem: path.read_text() for path in marks.iterdir()}
    assert done == {"shard-a": "x", "shard-b": "x", "shard-c": "xx", "shard-d": "x"}


def test_two_at_once_the_second_names_the_first(project):
    marks = project.folder.parent / "marks"
    process = project.start_python(ALL, "shard", FAKE_PAUSE="0.5", FAKE_MARKS=str(marks))
    project.wait_for(marks / "shard-a.started")
    second = project.run("stage", "run", "shard")
    assert second.returncode == 5
    assert second.stderr.startswith("error: another run works in") and "the-first-run" in second.stderr
    assert process.wait() == 0
    process.stdout.close()


def test_an_error_of_a_stage_keeps_finished_work_and_is_said_in_one_line(project):
    done = project.run("stage", "run", "shard", FAKE_FAIL="shard-c")
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "error: the loss is NaN"
    (work,) = (project.folder / ".fewstep" / "partial").iterdir()
    assert sorted(os.listdir(work / "scratch")) == ["a", "b"]
    assert project.run("stage", "run", "shard").stdout.startswith("shard was made")
    assert_clean(project)


def test_a_full_disk_is_said_and_finished_work_is_kept(project, undisturbed):
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n{ALL}"
    done = project.python(limited, "shard", FAKE_BYTES=str(3 << 20))
    assert done.returncode == 1 and "DiskFull: disk full while writing" in done.stderr
    assert "finished work is kept" in done.stderr
    finish(project, *FEW)
    assert files(project) == files(undisturbed)


def test_a_flipped_byte_is_found_by_verify_named_and_mended(undisturbed, tmp_path):
    shutil.copytree(undisturbed.folder, tmp_path / "project")
    project = FakeProject.at(tmp_path / "project")
    finish(project, *FEW)
    assert project.run("verify").returncode == 0
    victim = project.folder / "data" / "classifier" / "b.bin"
    times, data = victim.stat(), bytearray(victim.read_bytes())
    data[100] ^= 4
    victim.write_bytes(data)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = project.run("verify", "--json")
    assert done.returncode == 3
    wrong = {result["name"]: result["problems"] for result in json.loads(done.stdout)["outputs"] if result["problems"]}
    assert wrong == {"classifier": [f"{victim}: its bytes differ from its checksum"]}
    human = project.run("verify", "classifier")
    assert human.returncode == 3 and str(victim) in human.stdout and "error: classifier" in human.stderr
    assert project.run("verify", "nothing").returncode == 2
    assert "classifier restored" in project.python(ALL, *FEW).stdout
    assert project.run("verify").returncode == 0 and files(project) == files(undisturbed)


def test_damaged_inputs_are_not_used(undisturbed, tmp_path):
    shutil.copytree(undisturbed.folder, tmp_path / "project")
    project = FakeProject.at(tmp_path / "project")
    victim = project.folder / "data" / "shards" / "a.bin"
    victim.write_bytes(victim.read_bytes()[:-1])
    project.edit("{source: train, ", "{source: train, lr: 0.5, ")
    done = project.run("stage", "run", "teacher")
    assert done.returncode == 3 and f"{victim}: has" in done.stderr


def test_wrong_settings_change_nothing_on_disk(undisturbed, tmp_path):
    shutil.copytree(undisturbed.folder, tmp_path / "project")
    project = FakeProject.at(tmp_path / "project")

    def tree():
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in project.folder.rglob("*")}

    for old, new, message in (("source: train", "sauce: train", "teacher.sauce: unknown key; did you mean 'source'?"),
                              ("count: 8192", "count: many", "trajectories.count: expected an integer ≥ 1, got 'many'"),
                              ("recipe: kd", "recipe: dk", "unknown recipe 'dk'; did you mean 'kd'?"),
                              ("source: train", "source: nowhere", "nowhere: no such teacher folder")):
        project.edit(old, new)
        before = tree()
        done = project.run("stage", "run", "teacher")
        assert done.returncode == 2 and message in done.stderr.splitlines()[0], done.stderr
        assert tree() == before
        project.edit(new, old)
    done = project.run("stage", "run", "evaluate")
    assert done.returncode == 2 and "stage 'evaluate' needs data/student" in done.stderr


def test_another_machine_is_a_warning_and_both_are_recorded(project):
    project.run("stage", "run", "shard", FAKE_FAIL="shard-c")
    done = project.run("stage", "run", "shard", FAKE_MACHINE="elsewhere")
    assert done.returncode == 0 and "continued on another machine" in done.stderr
    manifest = json.loads((project.folder / "data" / "shards" / "manifest.json").read_text())
    assert manifest["fingerprint"] == [{"machine": "here"}, {"machine": "elsewhere"}]


def test_code_edited_after_the_start_is_not_run(project):
    code = ALL.replace("workspace = Workspace.find()", '''
from tasks.engine.stage_code import running_tree
workspace = Workspace.find()
running_tree(workspace)
path = workspace.root / "tasks" / "stages" / "classifier.py"
path.write_text(path.read_text() + "\\n\\nEDITED = 1\\n")''')
    done = project.python(code, "shard", "classifier")
    assert done.returncode == 1 and "its code was edited while this run was under way" in done.stderr
    assert "shard made" in done.stdout


def test_clean_removes_work_nobody_continues(project):
    project.run("stage", "run", "shard", FAKE_FAIL="shard-c")
    assert json.loads(project.check("clean", "--json")) == []      # params.yaml as it is would continue it
    project.edit("source: digits", "source: digits, record_size: 17")
    listed = json.loads(project.check("clean", "--dry-run", "--json"))
    assert len(listed) == 1 and listed[0]["bytes"] > 0
    for name in ("reports/a-vs-b.html", "reference/0123.safetensors"):
        (project.folder / ".fewstep" / name).parent.mkdir()
        (project.folder / ".fewstep" / name).write_text("made again where it is missing")
    assert json.loads(project.check("clean", "--json")) == listed
    assert {item["what"] for item in json.loads(project.check("clean", "--all", "--json"))} == {
        ".fewstep/reports", ".fewstep/reference"}
    assert not (project.folder / ".fewstep/reports").exists()
    assert_clean(project)


def test_a_stage_that_dvc_started_dies_with_it(project):
    marks = project.folder.parent / "marks"
    process = subprocess.Popen([str(Path(sys.executable).with_name("dvc")), "repro", "-s", "shard"],
                               cwd=project.folder, env=project.environment(FAKE_HOLD="shard-b", FAKE_MARKS=str(marks),
                                                                           FAKE_GO=str(marks / "never")),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    project.wait_for(marks / "shard-b.started")
    stage = psutil.Process(process.pid).children(recursive=True)
    process.kill()      # dvc alone, not its children
    process.wait()
    psutil.wait_procs(stage)    # they hold on to their unit until they die
    assert project.dvc("repro", "-s", "shard").returncode == 0
    assert_clean(project)


def test_parallel_units_stop_at_the_first_error_and_leave_torch_as_it_was():
    import torch

    from tasks.engine.runner import in_threads

    before, seen = torch.get_num_threads(), []

    class Work(UnitWork):
        def __call__(self, unit: str) -> None:
            seen.append((unit, torch.get_num_threads()))
            if unit == "3":
                raise ValueError("unit 3")
            time.sleep(0.02)

    with pytest.raises(ValueError, match="unit 3"):
        in_threads(2)(Work(graph.stage("trajectories"), None), [str(number) for number in range(50)])
    assert len(seen) < 50 and {threads for _, threads in seen} == {1} and torch.get_num_threads() == before
    seen.clear()
    in_threads(2)(Work(graph.stage("distill"), None), ["0", "1"])
    assert [unit for unit, _ in seen] == ["0", "1"]

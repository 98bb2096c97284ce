"""Units of a stage done apart from the run: the bytes of its own threads, the errors and the ends of any process."""

import fcntl
import multiprocessing
import os
import signal
import sys
import termios
import threading
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fewstep.util.config import parse
from fewstep.util.errors import NonFinite, SettingsError, StageFailed
from flows.executors.engine import Engine, Threads
from flows.executors.engines import Engines
from flows.executors.processes import Processes
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.engine.runner import prepare
from tasks.engine.unit_work import UnitWork
from tests.living import below, stop
from tests.tasks.stages.evaluation_world import EVALUATE, World, contents

SETTINGS = {
    "teacher": {"images": 320, "batch": 32, "channels": [8], "parts": 1,
                "check": {"samples": 64, "steps": 4, "max_distance_ratio": 1000}},
    "trajectories": {"count": 40, "steps": 2, "record_size": 4, "records_per_shard": 2},
    "distill": {"recipe": "kd"}, "evaluate": {**EVALUATE, "samples": 64, "classifier": {"images": 640}},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return trained(tmp_path_factory.mktemp("engines"))


def trained(folder: Path) -> World:
    """A world with what units of later stages need."""
    torch.set_num_threads(1)
    made = World(folder)
    made.settings = parse(Settings, SETTINGS, "test")
    for stage in ("shard", "teacher", "classifier"):
        made.run(stage)
    return made


@pytest.fixture
def processes():
    with Processes() as engine:
        yield engine
    assert not children(), "its processes end with it"


def children() -> list[int]:
    """Process ids of the unit processes of this one."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()
            if b"tasks.unit" in Path(f"/proc/{child}/cmdline").read_bytes()]


def kill_with_a_unit(stopped: list[int]) -> None:
    """Kills stopped unit processes once one of them has been sent a unit, which lies unread in its standard input."""
    while not any(unread(process) for process in stopped):
        time.sleep(0.01)
    for process in stopped:
        os.kill(process, signal.SIGKILL)


def unread(process: int) -> int:
    """Bytes that wait in a process's standard input."""
    place, found = os.open(f"/proc/{process}/fd/0", os.O_RDONLY | os.O_NONBLOCK), array("i", [0])
    try:
        fcntl.ioctl(place, termios.FIONREAD, found)
    finally:
        os.close(place)
    return found[0]


def work_of(world: World, stage: str, work: str) -> UnitWork:
    context = world.context(stage, work)
    world.listener.progress.clear()
    world.listener.warnings.clear()
    graph.stage(stage).check(context)
    prepare(graph.stage(stage), context)
    return UnitWork(graph.stage(stage), context)


def do(engine: Engine, work: UnitWork) -> dict[str, bytes]:
    """Does what is left of the work, as a flow does: on as many threads as the engine is wide."""
    units = work.stage.units(work.context)
    with ThreadPoolExecutor(engine.width) as pool, engine.side_by_side() as begin:
        list(pool.map(lambda unit: (begin(), engine.run(work, unit)), units))
    work.stage.finish(work.context)
    return contents(work.context.out)


@pytest.mark.parametrize("stage", ["trajectories", "baselines"])
def test_processes_make_the_bytes_of_threads_and_tell_the_same_progress(stage, world, processes, verified):
    alone = do(Threads(1), work_of(world, stage, f"{stage}-thread"))
    by_threads = do(Threads(2), work_of(world, stage, f"{stage}-threads"))
    told = world.listener.progress[:]
    assert do(processes, work_of(world, stage, f"{stage}-processes")) == by_threads == alone
    assert sorted(world.listener.progress) == sorted(told) and told[-1][0] == told[-1][1]
    assert 1 <= len(children()) <= processes.width and not world.listener.warnings
    verified("local", "same bytes", "progress")
    verified("processes", "same bytes", "progress")


class Killed(Threads):
    """Threads whose process is killed once it has done three units; a file tells what was begun and what done."""

    def __init__(self, journal: Path):
        super().__init__(2)
        self._journal, self._lock, self._done = journal, threading.Lock(), 0

    def run(self, work: UnitWork, unit: str) -> None:
        self._note(f"begun {unit}")
        super().run(work, unit)
        self._note(f"done {unit}", 1)

    def _note(self, text: str, done: int = 0) -> None:
        with self._lock:
            self._journal.open("a").write(f"{text}\n")
            self._done += done
            if self._done == 3:
                assert not list(below()), "threads alone are the run"
                os.kill(os.getpid(), signal.SIGKILL)


def is_killed(root: Path, journal: Path) -> None:
    """What the run's process does, of units of a world that is made."""
    torch.set_num_threads(1)
    world = World(root)
    world.settings = parse(Settings, SETTINGS, "test")
    do(Killed(journal), work_of(world, "trajectories", "run-killed"))


def test_a_run_that_is_killed_does_again_what_its_threads_were_doing(world, tmp_path, verified):
    alone, journal = do(Threads(1), work_of(world, "trajectories", "run-alone")), tmp_path / "journal"
    fresh = work_of(world, "trajectories", "run-fresh")
    units = set(fresh.stage.units(fresh.context))
    run = multiprocessing.get_context("spawn").Process(target=is_killed, args=(world.root, journal))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    lines = [line.split() for line in journal.read_text().splitlines()]
    begun, done = ({unit for what, unit in lines if what == told} for told in ("begun", "done"))
    assert len(done) == 3 and len(begun - done) <= 1
    again = work_of(world, "trajectories", "run-killed")
    assert units - begun <= set(again.stage.units(again.context)) <= units - done
    assert do(Threads(2), again) == alone
    verified("local", "lost process", "ends")


def test_a_process_that_is_killed_is_named_and_costs_its_unit_alone(world, processes, verified):
    alone = do(Threads(1), work_of(world, "trajectories", "undisturbed"))
    work = work_of(world, "trajectories", "killed")
    first, second, *_ = work.stage.units(work.context)
    processes.run(work, first)
    for child in children():
        stop(child)      # it will be in the middle of the next unit
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(processes.run, work, second)
        kill_with_a_unit(children())
        with pytest.raises(StageFailed, match=f"did unit {second} of stage 'trajectories' was ended by SIGKILL"):
            future.result()
    again = work_of(world, "trajectories", "killed")
    assert first not in again.stage.units(again.context) and second in again.stage.units(again.context)
    assert do(processes, again) == alone
    processes.close()
    assert not children()
    verified("processes", "lost process", "ends")


def test_what_a_unit_raises_there_is_raised_here(world, processes, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = World(tmp_path)
    broken.settings = world.settings
    broken.publish("teacher", world.folder("teacher"))
    weights = next(broken.folder("teacher").rglob("*.safetensors"))
    save_file({name: tensor * float("nan") for name, tensor in load_file(weights).items()}, weights)
    work = work_of(broken, "trajectories", "nan")
    with pytest.raises(NonFinite, match="teacher"):
        processes.run(work, work.stage.units(work.context)[0])
    assert [process.alive for process in processes._kept.values()] == [True], "an error of a unit ends no process"


SRUN = """#!{python}
import os, sys
command = [word for word in sys.argv[1:] if not word.startswith("--")]
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
print("srun: job 7 queued", flush=True)     # as some versions do on standard output
os.execv(command[0], command)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A `srun` that runs what it is given on this machine; returns the file with the options it was called with."""
    script, log = tmp_path / "bin" / "srun", tmp_path / "srun.log"
    script.parent.mkdir()
    script.write_text(SRUN.format(python=sys.executable, log=str(log)))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return log


def test_jobs_of_slurm_do_units_and_one_that_is_lost_is_started_again(world, slurm):
    alone = do(Threads(1), work_of(world, "trajectories", "slurm-threads"))
    with Engines(Settings(compute={"on": "slurm:gpu", "units": {"cpus": 2, "gpus": 1, "most": 1}})) as engines:
        work = work_of(world, "trajectories", "slurm")
        engine = engines.of(work)
        first, second, *_ = work.stage.units(work.context)
        engine.run(work, first)
        (child,) = children()
        stop(child)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(engine.run, work, second)
            kill_with_a_unit([child])
            future.result()     # by another job
        assert ["was ended by SIGKILL" in text for text in world.listener.warnings] == [True]
        assert do(engine, work_of(world, "trajectories", "slurm")) == alone
    assert not children()
    options = slurm.read_text().splitlines()
    assert len(options) == 2 and {"--partition=gpu", "--cpus-per-task=2", "--gpus=1"} <= set(options[0].split())


def test_processes_that_a_command_starts_do_units_and_one_that_is_lost_is_started_again(world, verified):
    alone = do(Threads(1), work_of(world, "trajectories", "command-threads"))
    told = world.listener.progress[:]
    launch = f"{sys.executable} -m tasks.unit"
    with Engines(Settings(compute={"on": "command", "launch": launch, "units": {"most": 2}})) as engines:
        work = work_of(world, "trajectories", "by-command")
        engine = engines.of(work)
        assert do(engine, work) == alone
        assert sorted(world.listener.progress) == sorted(told) and not world.listener.warnings
        work = work_of(world, "trajectories", "by-command-killed")
        for child in children():
            stop(child)      # it will be in the middle of the next unit
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(engine.run, work, work.stage.units(work.context)[0])
            kill_with_a_unit(children())
            future.result()
        assert any("was ended by SIGKILL; the unit is done again" in text for text in world.listener.warnings)
        assert do(engine, work) == alone and children()
    assert not children()
    verified("command", "same bytes", "lost process", "ends", "progress")


@pytest.mark.parametrize(("width", "names"), [(2, [1, 1, 2]), (1, [1, 1, 1])])
def test_a_place_where_two_were_lost_is_given_up_while_there_is_another(width, names, world, tmp_path):
    log = tmp_path / "log"
    launch = f"sh -c 'echo $FEWSTEP_NODE >> {log}; [ $FEWSTEP_NODE = 1 ] || exec {sys.executable} -m tasks.unit'"
    work = work_of(world, "trajectories", f"given-up-{width}")
    units = work.stage.units(work.context)
    with Engines(Settings(compute={"on": "command", "launch": launch, "units": {"most": width}})) as engines:
        engine = engines.of(work)
        if width == 1:
            with pytest.raises(StageFailed, match=r"ended with code 0 \(3 attempts\)"):
                engine.run(work, units[0])
        else:
            engine.run(work, units[0])
            engine.run(work, units[1])
            assert any("nothing more is asked of place 1" in text for text in world.listener.warnings)
    assert [int(line) for line in log.read_text().split()] == names


def test_one_that_has_nothing_to_do_makes_room_for_one_that_waits_for_it(world, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.executors.engine._IDLE", 0.2)
    alone = do(Threads(1), work_of(world, "trajectories", "room-threads"))
    launch = f"flock {tmp_path}/room {sys.executable} -m tasks.unit"    # as a cluster with room for one
    with Engines(Settings(compute={"on": "command", "launch": launch, "units": {"most": 3}})) as engines:
        work = work_of(world, "trajectories", "room")
        assert do(engines.of(work), work) == alone and not world.listener.warnings


def test_who_did_units_ends_before_a_training(world):
    with Engines(Settings(compute={"on": "processes"})) as engines:
        work = work_of(world, "trajectories", "before-training")
        first, second, *_ = work.stage.units(work.context)
        engines.of(work).run(work, first)
        (kept,) = children()
        engines.of(work_of(world, "teacher", "training"))
        assert not children(), "it would hold a teacher's memory of a GPU"
        engines.of(work).run(work, second)
        assert children() != [kept] and not world.listener.warnings


def test_what_units_wait_for_is_said_where_none_begins(world, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.executors.long_waits.LONG_WAIT", 0.01)
    go = tmp_path / "go"
    os.mkfifo(go)
    launch = f"sh -c 'read line < {go}; exec {sys.executable} -m tasks.unit'"
    work, said = work_of(world, "trajectories", "long-wait"), []

    def warn(text: str) -> None:
        said.append(text)
        go.write_text("go\n")

    monkeypatch.setattr(work.context, "warn", warn, raising=False)
    with Engines(Settings(compute={"on": "command", "launch": launch, "units": {"most": 1}})) as engines:
        engines.of(work).run(work, work.stage.units(work.context)[0])
    (text,) = said
    assert "units have waited for 0 s, and none has begun: they begin when `sh -c" in text


def test_a_command_that_starts_no_process_is_named(world, tmp_path):
    work = work_of(world, "trajectories", "command")
    unit = work.stage.units(work.context)[0]
    with Engines(Settings(compute={"on": "command", "launch": f"{tmp_path}/none -i"})) as engines, \
            pytest.raises(SettingsError, match="none: No such file or directory"):
        engines.of(work).run(work, unit)
    fails = "sh -c 'echo no node is free >&2; exit 3'"
    with Engines(Settings(compute={"on": "command", "launch": fails})) as engines, \
            pytest.raises(StageFailed, match=r"ended with code 3: no node is free \(3 attempts\)"):
        engines.of(work).run(work, unit)


def test_what_cannot_be_done_apart_stays_in_this_process(world):
    with Engines(Settings(compute={"on": "processes"})) as engines:
        assert isinstance(engines.of(work_of(world, "trajectories", "a")), Processes)
        assert engines.of(work_of(world, "teacher", "b")).width == 1
        assert isinstance(engines.of(work_of(world, "shard", "c")), Threads)
    with Engines(Settings(trajectories={"workers": 3})) as engines:     # one GPU at most
        chosen = engines.of(work_of(world, "trajectories", "d"))
        assert isinstance(chosen, Threads) and chosen.width == 3
        assert engines.of(work_of(world, "encode", "e")).width == 1

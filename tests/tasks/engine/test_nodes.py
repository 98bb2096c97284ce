"""Units that several nodes share, each a process that a command starts: the bits of one process, and how any of them
ends."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from fewstep.util.errors import SettingsError, StageFailed
from tasks.config.schema import Compute
from tasks.engine import graph, shared_unit
from tasks.engine.group.nodes import LaunchedNodes, Nodes
from tests.living import below, with_word
from tests.tasks.engine.test_shared_unit import AtImages, HearsRanks, world  # noqa: F401 (a fixture)
from tests.tasks.stages.evaluation_world import Listener, World, contents

LAUNCH = f"{sys.executable} -m tasks.unit"


def worked(world: World, name: str, work: str, nodes: int | Nodes, observer: Listener | None = None,  # noqa: F811
           parallel: str = "replicate", processes: int | None = 1, launch: str = LAUNCH) -> dict:  # fmt: skip
    """What the stage makes on so many nodes, or on these."""
    context, stage = world.context(name, work), graph.stage(name)
    context.processes, context.checkpoint_images, context.parallel = processes, 128, parallel
    if isinstance(nodes, int):
        nodes = LaunchedNodes(Compute(on="command", launch=launch, nodes=nodes))
    context.nodes = nodes if nodes.count > 1 else None
    context.observer = observer or context.observer
    for unit in stage.units(context):
        shared_unit.run_unit(stage, context, unit)
    stage.finish(context)
    return contents(context.out)


def started(module: str) -> list[psutil.Process]:
    """The processes that this one started, directly or not, with the module in their command."""
    return with_word(module, below())


@pytest.mark.parametrize("name", [pytest.param("teacher", marks=pytest.mark.slow), "distill"])
def test_nodes_make_the_bytes_of_one_process_and_one_continues_their_work(name, world, verified):  # noqa: F811
    seen = []

    def stop():
        seen.append((len(started("tasks.unit")), len(started("tasks.engine.group.ranks"))))
        raise KeyboardInterrupt

    world.listener.progress.clear()
    alone = worked(world, name, f"{name}-1", 1)
    told = world.listener.progress[:]
    world.listener.progress.clear()
    assert worked(world, name, f"{name}-nodes", 2) == alone and world.listener.progress == told
    with pytest.raises(KeyboardInterrupt):
        worked(world, name, f"{name}-2-1", 2, AtImages(256, stop))
    assert seen == [(1, 1)] and not started("tasks.unit") and not started("tasks.engine.group.ranks")
    assert worked(world, name, f"{name}-2-1", 1) == alone
    verified("training on nodes, command", "same bytes", "ends", "progress")


@pytest.mark.parametrize(("module", "told"), [
    ("tasks.engine.group.ranks", "process 2 of 2 that share 'round-1' of stage 'distill' was ended by SIGKILL"),
    pytest.param("tasks.unit", "what was started on node 2 was ended by SIGKILL", marks=pytest.mark.slow),
])
def test_a_node_that_is_killed_ends_the_unit_by_name_and_the_nodes_go_on_bit_for_bit(
        module, told, world, verified):  # noqa: F811
    alone, work = worked(world, "distill", "alone", 1), f"killed-{module}"
    observer = HearsRanks(256, lambda: started(module)[0].kill())
    with pytest.raises(StageFailed, match=told):
        worked(world, "distill", work, 2, observer)
    there = next(rank for rank in observer.ranks if rank[1] == 1)
    assert there[2] == "node 2" and told in there[3]
    assert sorted((world.root / "work" / work).rglob("step-*.json")) and not started("tasks.engine.group.ranks")
    assert worked(world, "distill", work, 2) == alone
    verified("training on nodes, command", "lost process")


def test_shards_on_nodes_are_those_of_a_machine_and_each_goes_on_from_the_others(world):  # noqa: F811
    here = worked(world, "distill", "shards-here", 1, parallel="shard", processes=2)
    with pytest.raises(StageFailed, match="was ended by SIGKILL"):
        worked(world, "distill", "shards-nodes", 2, parallel="shard",
               observer=AtImages(256, lambda: os.kill(started("tasks.engine.group.ranks")[0].pid, signal.SIGKILL)))
    assert worked(world, "distill", "shards-nodes", 2, parallel="shard") == here


def test_a_command_that_starts_nothing_is_named(world, tmp_path):  # noqa: F811
    with pytest.raises(SettingsError, match="none: No such file or directory; it is to start processes on node 2"):
        worked(world, "distill", "none", 2, launch=f"{tmp_path}/none")
    with pytest.raises(StageFailed, match="on node 2 ended with code 3: 1 is not free"):
        worked(world, "distill", "none", 2, launch="sh -c 'echo $FEWSTEP_NODE is not free >&2; exit 3'")
    told = f"{Path(sys.executable).name}.* does not see .*/work/none, and hosts share no object store"
    hidden = f"unshare --mount sh -c 'mount -t tmpfs none {world.root}/work && exec {LAUNCH}'"
    if os.getuid() == 0:
        with pytest.raises(SettingsError, match=told.partition(".* ")[2]):
            worked(world, "distill", "none", 2, launch=hidden)


def test_nodes_that_are_long_in_coming_are_named(monkeypatch):
    monkeypatch.setattr("tasks.engine.group.nodes.LONG_WAIT", 0.0)
    monkeypatch.setattr(shared_unit.work_fingerprints, "note", lambda *_: None)
    said, others = [], object.__new__(shared_unit._Others)
    late = Mock(awaited="node 2 (no worker)", heard=lambda: {"ready": {}} if said else {})
    others._links, others.context = [late], SimpleNamespace(warn=said.append)
    others._ranks = SimpleNamespace(ready=True, require_alive=lambda: None)
    others.message = SimpleNamespace(unit="round-1", parallel="replicate")
    others._wait_until_ready()
    assert said == ["'round-1' has waited for 0 s, and begins when all nodes take part; not yet there: "
                    "node 2 (no worker)"]  # fmt: skip


def test_nodes_of_slurm_are_those_of_the_job_that_the_run_is_in(tmp_path, monkeypatch):
    nodes = LaunchedNodes(Compute(on="slurm", nodes=3))
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(SettingsError, match="compute.nodes is 3, and this run is on no node of a Slurm job") as refused:
        nodes.start(3)
    assert "sbatch --nodes=3" in refused.value.hint
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\nprintf 'n1\\nn2\\n'\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "2(x2)")
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    with pytest.raises(SettingsError, match=r"compute.nodes is 3, and this Slurm job has 2: n\[1-2\]"):
        nodes.start(3)


@pytest.mark.parametrize(("parts", "processes", "nodes", "layout"), [
    (1, None, 2, (1, 1)), (2, 1, 2, (2, 1)), (2, 2, 2, (1, 2)), (8, 2, 3, (2, 2)), (6, 1, 3, (3, 1)), (8, 4, 2, (2, 4)),
])
def test_as_many_nodes_as_there_are_parts_for(parts, processes, nodes, layout, world, monkeypatch):  # noqa: F811
    context = world.context("teacher", "layout")
    context.settings = context.settings.model_copy(update={"parts": parts})
    context.processes, context.nodes = processes, LaunchedNodes(Compute(on="command", launch="x", nodes=nodes))
    monkeypatch.setattr("fewstep.training.distributed.devices", lambda: 2)
    assert shared_unit._layout(graph.stage("teacher"), context) == layout

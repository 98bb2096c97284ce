"""Units on a real Ray cluster of two nodes: the bytes of threads, and a node that is killed costs its units alone."""

import os
import re

import psutil
import pytest

from fewstep.util.errors import NotAvailable, SettingsError
from flows.executors.engine import Threads
from flows.executors.engines import Engines
from flows.executors.ray_cluster import RayCluster
from tasks.config.schema import Settings, UnitResources
from tests.flows.executors.ray_nodes import ray_nodes
from tests.flows.executors.test_unit_engines import do, work_of, world  # noqa: F401 (a fixture)

pytest.importorskip("ray", reason="Ray is an optional extra")


@pytest.fixture(scope="module")
def nodes():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ray_nodes(environment) as started:
        started.start(1)
        started.second = started.start(1)
        started.wait(2)
        yield started


@pytest.mark.slow
def test_a_node_that_is_killed_costs_its_units_alone(world, nodes, monkeypatch, verified):  # noqa: F811
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    threads = do(Threads(1), work_of(world, "trajectories", "ray-threads"))
    told = world.listener.progress[:]
    with RayCluster("ray", UnitResources()) as cluster:
        assert cluster.width == 2
        assert do(cluster, work_of(world, "trajectories", "ray")) == threads
        assert world.listener.progress[-1] == told[-1] and not world.listener.warnings

        work = work_of(world, "trajectories", "ray-killed")
        kill = [nodes.second]
        assert nodes.freeze_workers(nodes.second)   # so that it is in the middle of a unit then

        def advance(count: int) -> None:
            if kill:
                nodes.kill(kill.pop())      # when the other node has made its first record
            counted(count)

        counted, work.context.advance = work.context.advance, advance
        assert do(cluster, work) == threads
        assert world.listener.progress[-1] == told[-1]
        assert [text for text in world.listener.warnings if "was lost, or its node" in text]
        left = nodes.doers()
        assert left
    psutil.wait_procs(left)     # the cluster goes on, and what did units ends with the run
    verified("ray", "same bytes", "lost process", "ends", "progress")
    asks = r"a unit asks for 2 CPUs and 0 GPUs of one node, and no node .* at ray has both \(the most: 1 and 0\)"
    with pytest.raises(SettingsError, match=asks):
        RayCluster("ray", UnitResources(cpus=2))    # two nodes have one each: it would wait for ever


def test_actors_make_room_for_a_training_and_what_waits_for_a_node_is_said(world, nodes, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    work = work_of(world, "trajectories", "ray-room")
    first, second, *_ = work.stage.units(work.context)
    with Engines(Settings(compute={"on": "ray"})) as engines:
        cluster = engines.of(work)
        cluster.run(work, first)
        assert re.fullmatch(r"a unit waits for 1 CPUs and 0 GPUs of one node of the Ray cluster at ray, .*",
                            cluster.waits_for())  # fmt: skip
        actors = [one for one in nodes.doers() if "UnitActor" in one.name()]
        assert len(actors) == 1
        engines.of(work_of(world, "teacher", "ray-training"))
        psutil.wait_procs(actors)
        cluster.run(work, second)   # by another one


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.9:1")
    with pytest.raises(NotAvailable, match="no Ray cluster answers at 127.0.0.9:1: "):
        RayCluster("ray", UnitResources())
    with pytest.raises(NotAvailable, match="no Ray cluster answers at ray://127.0.0.9:1: "):
        RayCluster("ray://127.0.0.9:1", UnitResources())

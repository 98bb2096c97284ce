"""A training that a node of a real Ray cluster takes part in: the bytes of one process, a node that is killed in it,
and nothing that is left when it ends."""

import os

import psutil
import pytest

from fewstep.util.errors import SettingsError, StageFailed
from flows.executors.engines import Engines
from tasks.config.schema import Settings
from tests.flows.executors.ray_nodes import ray_nodes
from tests.tasks.engine.test_nodes import started, worked
from tests.tasks.engine.test_shared_unit import AtImages, world  # noqa: F401 (a fixture)

pytest.importorskip("ray", reason="Ray is an optional extra")
RANKS = "tasks.engine.group.ranks"


@pytest.mark.slow
def test_a_node_that_is_killed_ends_a_training_by_name_and_it_goes_on_with_another(world, monkeypatch, verified):  # noqa: F811
    def engines_on(address: str) -> Engines:
        return Engines(Settings(compute={"on": address, "nodes": 2, "processes": 1}))

    world.listener.progress.clear()
    alone = worked(world, "distill", "ray-alone", 1)
    told = world.listener.progress[:]
    with ray_nodes({**os.environ, "OMP_NUM_THREADS": "1"}) as cluster:
        cluster.start(0)    # the run's own, which does no unit
        second = cluster.start(1)
        cluster.wait(1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        with engines_on(cluster.client) as engines:     # as a host that is no member
            nodes = engines.nodes(world.context("distill").workspace)
            assert worked(world, "distill", "ray-client", nodes) == alone
        assert not started(RANKS)
        with engines_on("ray") as engines:
            nodes = engines.nodes(world.context("distill").workspace)
            world.listener.progress.clear()
            assert worked(world, "distill", "ray", nodes) == alone and world.listener.progress == told
            assert not started(RANKS)
            with pytest.raises(StageFailed, match="what was started on 127.0.0.3 was lost, or its node: "):
                worked(world, "distill", "ray-killed", nodes, AtImages(256, lambda: cluster.kill(second)))
            cluster.wait(0)     # the cluster has noticed
            with pytest.raises(SettingsError, match="0 nodes beside this host have 1 CPUs and 0 GPUs each"):
                worked(world, "distill", "ray-killed", nodes)
            cluster.start(1)
            cluster.wait(1)
            working = []
            assert worked(world, "distill", "ray-killed", nodes, AtImages(384, lambda: working.extend(started(RANKS))))
            assert len(working) == 1 and worked(world, "distill", "ray-killed", 1) == alone

            def stop() -> None:
                working.extend(started(RANKS))
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                worked(world, "distill", "ray-stopped", nodes, AtImages(256, stop))
            psutil.wait_procs(working)
    assert len(working) == 2
    verified("training on nodes, ray", "same bytes", "lost process", "ends", "progress")

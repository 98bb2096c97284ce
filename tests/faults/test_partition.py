"""A host that loses its link to all others while it works: a network namespace whose cable is pulled."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from fewstep.util.errors import StageFailed
from flows.executors.engine import Threads
from flows.executors.engines import Engines
from flows.executors.ray_cluster import RayCluster
from tasks.config.schema import Settings, UnitResources
from tests import netns
from tests.faults.two_projects import TwoProjects, relayed
from tests.flows.executors.ray_nodes import ray_nodes
from tests.flows.executors.test_unit_engines import do, trained, work_of
from tests.project import ROOT
from tests.tasks.engine.test_nodes import worked
from tests.tasks.engine.test_shared_unit import AtImages
from tests.tasks.engine.test_shared_unit import world as shared  # noqa: F401 (a fixture)

SSHD = "/usr/sbin/sshd"
pytestmark = [
    pytest.mark.faults, pytest.mark.timeout(0),
    pytest.mark.skipif(not netns.AVAILABLE, reason=netns.WHY_NOT),
    pytest.mark.skipif(not Path(SSHD).exists(), reason="needs Debian's openssh-server: apt-get install openssh-server"),
]  # fmt: skip


@contextmanager
def ssh_to(host: netns.Host, folder: Path) -> Iterator[str]:
    """OpenSSH's server on the host; yields the command that runs something there."""
    folder.mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "key.pub", folder / "known")
    alive = ["ClientAliveInterval=3", "ClientAliveCountMax=3"]
    options = [f"AuthorizedKeysFile={folder}/known", "StrictModes=no", "UsePAM=no", "PidFile=none", *alive]
    daemon = subprocess.Popen([*host.within, SSHD, "-D", "-e", "-f", "/dev/null", "-p", "2222", "-h", folder / "host",
                               *(word for option in options for word in ("-o", option))],
                              stderr=open(folder / "log", "wb"))  # noqa: SIM115 (as long as it lives)
    asked = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
             "ConnectTimeout=5", "ServerAliveInterval=3", "ServerAliveCountMax=3"]
    command = shlex.join(["ssh", "-p", "2222", "-i", str(folder / "key"),
                          *(word for option in asked for word in ("-o", option)), f"root@{host.own}"])  # fmt: skip
    try:
        until = time.monotonic() + 60
        while subprocess.run([*shlex.split(command), "true"], capture_output=True).returncode:
            assert daemon.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.2)
        yield command
    finally:
        for process in [*psutil.Process(daemon.pid).children(recursive=True), daemon]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.wait()


class Team(TwoProjects):
    """The same, another host, and what starts processes of ours there, which see nothing of the project and keep what
    they need in `cache`."""

    def __init__(self, folder: Path, host: netns.Host, ssh: str, s3, prefix: str, s3_there: str):
        super().__init__(folder, s3, prefix)
        self.host, self.environment = host, {**s3.environment, "FEWSTEP_ADDRESS": host.address}
        more = {**s3.environment, "AWS_ENDPOINT_URL": s3_there, "FEWSTEP_UNIT_CACHE": str(self.cache),
                "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        unit = shlex.join(["env", *(f"{name}={value}" for name, value in more.items()), sys.executable, "-m",
                           "tasks.unit"])  # fmt: skip
        hidden = f"mount -t tmpfs none {self.project.folder.parent} && cd / && exec {unit}"
        self.there = f"{ssh} {shlex.quote(shlex.join(['unshare', '--mount', 'sh', '-c', hidden]))}"
        script = folder / "launch"
        script.write_text(f"#!/bin/sh\n[ $FEWSTEP_NODE = 1 ] && exec {self.there}\n"
                          f"exec {sys.executable} -m tasks.unit\n")
        script.chmod(0o755)
        self.launch = str(script)


@pytest.fixture
def team(s3_server, s3_prefix, tmp_path) -> Iterator[Team]:
    with netns.host() as host, ssh_to(host, tmp_path / "ssh") as ssh, \
            relayed(host.address, s3_server.url) as there:  # fmt: skip
        yield Team(tmp_path, host, ssh, s3_server, s3_prefix, there)


def test_units_of_a_host_that_is_cut_off_are_done_elsewhere_and_a_training_goes_on_with_it_later(team, verified):
    said = team.folder / "said.txt"
    team.project.set({"compute.on": "command", "compute.launch": team.launch, "compute.units.most": 2})
    run = team.project.start("stage", "run", "trajectories", log=said, **team.environment)
    while not list(team.cache.glob("work-*/work/scratch/**/*.*")):      # a unit is being done there
        assert run.poll() is None, said.read_text()
        time.sleep(0.05)
    team.host.cut()
    assert run.wait() == 0, said.read_text()
    told = said.read_text().replace("\n", " ")
    assert "the unit is done again" in told and "nothing more is asked of place 1" in told, told
    assert team.project.digests() == team.digests("student")
    team.host.mend()

    team.project.set({"compute.nodes": 2})
    run = team.project.start("stage", "run", "distill", log=said, **team.environment)
    while not (team.host.processes("tasks.engine.group.ranks")
               and list((team.project.folder / ".fewstep").rglob("round-1/checkpoints/step-*.json"))):
        assert run.poll() is None, said.read_text()
        time.sleep(0.05)
    team.host.cut()
    assert run.wait() == 1
    assert "what was started on node 2 ended with code 255" in said.read_text().replace("\n", " "), said.read_text()
    while team.host.processes("tasks.engine.group.ranks"):     # they hear of it there, too
        time.sleep(0.5)
    team.host.mend()
    team.project.check("stage", "run", "distill", **team.environment)
    assert team.project.digests() == team.undisturbed.digests()
    assert "student" in team.project.digests()
    verified("command", "cut link", "no disk")
    verified("training on nodes, command", "cut link")


def test_units_of_a_ray_node_that_is_cut_off_are_done_on_the_others(tmp_path, monkeypatch, verified):
    pytest.importorskip("ray", reason="Ray is an optional extra")
    world = trained(tmp_path / "world")
    alone = do(Threads(1), work_of(world, "trajectories", "threads"))
    with netns.host() as host, ray_nodes({**os.environ, "OMP_NUM_THREADS": "1"}, (host.address, host.own)) as nodes:
        nodes.start(1)
        second = nodes.start(1, within=host.within)
        nodes.wait(2)
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        with RayCluster("ray", UnitResources()) as cluster:
            assert do(cluster, work_of(world, "trajectories", "undisturbed")) == alone   # each node has its process
            work, connected = work_of(world, "trajectories", "cut"), [True]

            def advance(count: int) -> None:
                if connected and connected.pop():       # both nodes do their first unit
                    assert nodes.freeze_workers(second)
                    host.cut()
                counted(count)

            counted, work.context.advance = work.context.advance, advance
            assert do(cluster, work) == alone
            assert [text for text in world.listener.warnings if "was lost, or its node" in text]
    verified("ray", "cut link")


def test_a_training_of_a_ray_node_that_is_cut_off_ends_by_name_and_goes_on(shared, monkeypatch, verified):  # noqa: F811
    pytest.importorskip("ray", reason="Ray is an optional extra")
    alone = worked(shared, "distill", "alone", 1)
    with netns.host() as host, ray_nodes({**os.environ, "OMP_NUM_THREADS": "1"}, (host.address, host.own)) as nodes:
        nodes.start(0)
        nodes.start(1, within=host.within)
        nodes.wait(1)
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        monkeypatch.setenv("FEWSTEP_ADDRESS", host.address)
        with Engines(Settings(compute={"on": "ray", "nodes": 2, "processes": 1})) as engines:
            far = engines.nodes(shared.context("distill").workspace)
            with pytest.raises(StageFailed, match=f"what was started on {host.own} was lost, or its node: "):
                worked(shared, "distill", "cut", far, AtImages(256, host.cut))
    assert worked(shared, "distill", "cut", 1) == alone
    verified("training on nodes, ray", "cut link")

"""SIGKILLs before events of every stage, on one host and on two: as many as FEWSTEP_KILLS says, half and half.

A stage is begun in a project in which all before it is made. It dies a few times, each start going on with what the
last one left, then it ends and is compared with an undisturbed one; and so on until it died as often as it is to.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tasks.engine import graph
from tasks.storage.object_store import Store
from tasks.storage.sharing import lease, shared_work
from tests.file_events import drawn
from tests.killing import Commands
from tests.pipeline.test_kill import SEED, check_bytes, check_flow, leftovers, mlflow_client
from tests.project import TINY, Project

pytestmark = [pytest.mark.faults, pytest.mark.timeout(0)]
KILLS = int(os.environ.get("FEWSTEP_KILLS", "36"))
AT_MOST = 3     # deaths of a stage before it may end: events come often, and a start has some before it works on


@dataclass
class Undisturbed:
    """A project that nobody disturbed, copies of it as they were before each stage, and how many events that had."""

    commands: Commands
    before: dict[str, Path]
    events: dict[str, int]

    @property
    def project(self) -> Project:
        return self.commands.project


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    commands, before, events = Commands(Project(folder / "undisturbed", TINY)), {}, {}
    for stage in graph.IN_DVC:
        before[stage.name] = folder / f"before-{stage.name}"
        shutil.copytree(commands.project.folder, before[stage.name], symlinks=True)
        events |= commands.check("stage", "run", stage.name).events
    yield Undisturbed(commands, before, events)
    commands.close()


def at(folder: Path) -> Project:
    """The project that lies in `folder`, or will."""
    folder.mkdir(exist_ok=True)
    project = Project.__new__(Project)
    project.folder = folder
    return project


def renew(project: Project, like: Path) -> None:
    """Makes a project what `like` is; its folder stays the same, as a process works there."""
    for path in project.folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.copytree(like, project.folder, symlinks=True, dirs_exist_ok=True)


def shares(kills: int) -> dict[str, int]:
    """How many of them each stage gets."""
    return {stage.name: (kills + place) // len(graph.IN_DVC) for place, stage in enumerate(graph.IN_DVC)}


def check_output(project: Project, reference: Project, stage: str) -> None:
    output = Path(graph.stage(stage).output).name
    assert project.digests()[output] == reference.digests()[output]
    check_bytes(project, reference, output)
    assert leftovers(project) == []


def test_on_one_host(undisturbed, tmp_path, seen):
    project, generator = at(tmp_path / "killed"), random.Random(SEED + 30)
    shutil.copytree(undisturbed.before["shard"], project.folder, symlinks=True, dirs_exist_ok=True)
    commands, kills = Commands(project), 0
    for stage, share in shares(KILLS // 2).items():
        while share > 0:
            renew(project, undisturbed.before[stage])
            events = drawn(undisturbed.events[stage], min(AT_MOST, share), generator)
            deaths = [commands.dies("stage", "run", stage, fatal=(stage, number)) for number in events].count(True)
            commands.check("stage", "run", stage)
            check_output(project, undisturbed.project, stage)
            assert deaths, "no event was met"
            share, kills = share - deaths, kills + deaths
    commands.close()
    seen(fault=f"SIGKILL before {kills} events of all stages, drawn evenly", code=None, resume="0, the same bytes")


def test_on_two_hosts(undisturbed, tmp_path, s3_server, s3_prefix, seen):
    """Each start is on the other host: it waits for the lease of the dead one, and goes on with its work."""
    projects, generator = [at(tmp_path / name) for name in ("one", "two")], random.Random(SEED + 40)
    places, kills = count(), 0
    for project in projects:
        shutil.copytree(undisturbed.before["shard"], project.folder, symlinks=True, dirs_exist_ok=True)
    hosts = [Commands(project, FEWSTEP_HOST=project.folder.name,
                      **{lease.SECONDS: "2", shared_work.SECONDS: "0.1"}, **s3_server.environment)
             for project in projects]  # fmt: skip
    for stage, share in shares(KILLS - KILLS // 2).items():
        while share > 0:
            url = f"{s3_prefix}/{next(places)}"
            for project in projects:
                renew(project, undisturbed.before[stage])
                (project.folder / ".dvc" / "config.local").write_text(
                    f"['remote \"store\"']\n    url = {url}\n[core]\n    remote = store\n")
            deaths = 0
            for number in drawn(undisturbed.events[stage], min(AT_MOST, share), generator):
                deaths += hosts[0].dies("stage", "run", stage, fatal=(stage, number))
                hosts.reverse()
            for host in hosts:
                host.check("stage", "run", stage)
                check_output(host.project, undisturbed.project, stage)
            store = Store(f"{url}/fewstep")
            key = json.loads((projects[0].folder / graph.stage(stage).output / "manifest.json").read_text())["key"]
            assert [name for name in store.names("") if "/" not in name] == [f"{key}.json"], "announced once"
            assert store.names("work/") == []
            assert deaths, "no event was met"
            share, kills = share - deaths, kills + deaths
    for host in hosts:
        host.close()
    seen(fault=f"SIGKILL before {kills} events of all stages, each continued on another host", code=None,
         resume="0, the same bytes")


def test_while_a_version_is_registered(undisturbed, tmp_path, seen):
    """Of a run whose stages the undisturbed project has made: what is registered is there once, and promoted."""
    events = undisturbed.commands.check("stage", "run", "register").events["register"]
    killed = Commands(Project(tmp_path / "killed", TINY))
    hits = [killed.dies("run", fatal=("register", number)) for number in drawn(events, 3, random.Random(SEED + 50))]
    assert hits[0]
    killed.check("run")
    check_flow(killed.project, undisturbed.project.digests())
    client = mlflow_client(killed.project)
    (version,) = client.search_model_versions("name='fewstep-digits'")
    assert client.get_registered_model("fewstep-digits").aliases == {"candidate": version.version,
                                                                    "champion": version.version}  # fmt: skip
    (model,) = client.search_logged_models([client.get_run(version.run_id).info.experiment_id])
    assert model.status == "READY"
    seen(fault=f"SIGKILL before {hits.count(True)} events of the registration of a version", code=None,
         resume="0, one version, one champion")
    killed.close()

"""Real stages on two hosts: trajectories and distillation, killed on one, end on the other in the undisturbed bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.engine import graph
from tasks.storage.object_store import Store
from tasks.storage.sharing import lease, shared_work
from tests.project import TINY, Project, kill_group

SETTINGS = {**TINY, "trajectories.count": 1024, "trajectories.records_per_shard": 4, "distill.images": 12000,
            "distill.checkpoint_images": 256}
MADE = {"trajectories": (".tar", "records/"), "distill": ("step-",)}
"""Of each stage, what stands in the names of its finished work."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, Path]]:
    """A project that nobody disturbed, and its copies as they were before each of the stages."""
    folder, before = tmp_path_factory.mktemp("hosts"), {}
    project = Project(folder / "undisturbed", SETTINGS)
    for stage in graph.IN_DVC:
        if stage.name in MADE:
            before[stage.name] = folder / f"before-{stage.name}"
            shutil.copytree(project.folder, before[stage.name])
        project.check("stage", "run", stage.name)
        if before.keys() == MADE.keys():
            return project.folder, before
    raise AssertionError(f"no stages {MADE.keys() - before.keys()}")


def shared(store: Store) -> list[str]:
    """Paths of the unfinished work that counts; empty where none does."""
    for name in lease.names(store, "keys/"):
        pointer = lease.look(store, name).file.content.get("work")
        if pointer is not None:
            return [file["path"] for file in json.loads(store.read(pointer["listing"]))["files"]]
    return []


@pytest.mark.timeout(0)
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["trajectories", "distill"])
def test_a_stage_killed_on_one_host_ends_on_another_alike(undisturbed, stage, s3_server, s3_prefix, tmp_path):
    reference, before = undisturbed
    hosts, store = [], Store(f"{s3_prefix}/fewstep")
    for name in ("one", "two"):
        shutil.copytree(before[stage], tmp_path / name)
        project = Project.__new__(Project)
        project.folder = tmp_path / name
        hosts.append(project)
        subprocess.run([sys.executable, "-m", "dvc", "remote", "add", "-q", "-f", "-d", "store", s3_prefix],
                       cwd=project.folder, env=project.environment(), check=True)
    settings = {**s3_server.environment, lease.SECONDS: "5", shared_work.SECONDS: "0.1"}
    log = tmp_path / "one.log"
    process = hosts[0].start("stage", "run", stage, log=log, FEWSTEP_HOST="one", **settings)
    while not any(part in path for path in shared(store) for part in MADE[stage]):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    kill_group(process)
    done = hosts[1].run("stage", "run", stage, FEWSTEP_HOST="two", **settings)
    assert done.returncode == 0 and "continued from what another host left" in done.stderr, done.stderr
    output = {"trajectories": "trajectories", "distill": "student"}[stage]
    for path in (reference / "data" / output).rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (hosts[1].folder / path.relative_to(reference)).read_bytes(), path.name
    assert shared(store) == [] and store.names("work/") == []

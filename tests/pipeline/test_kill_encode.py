"""SIGKILL of the real pipeline in the middle of encoding texts and images, then resume: an undisturbed run's bytes.

Events are counted in an undisturbed run (`tests.killing`); a kill hits on a machine of any pace.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.fewstep.families.pipelines import KINDS
from tests.killing import Commands
from tests.pipeline.test_kill import KILLED, check_bytes, leftovers
from tests.pipeline.tiny_runs import captioned
from tests.project import Project

# Busy machines are slow, and every wait here ends with a process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
IMAGES = 700        # three blocks of them, of 256 at most; of texts there is one


@pytest.fixture
def projects(tmp_path):
    """Commands of two copies of a project with images in shards and a teacher of texts, nothing encoded yet."""
    KINDS["sd"].save(tmp_path / "teacher")
    first = Project(tmp_path / "killed")
    first.check("data", "add", str(captioned(tmp_path / "images", 32, IMAGES)))
    first.set({"teacher.source": tmp_path / "teacher", "data.source": "raw"})
    first.check("stage", "run", "shard")
    shutil.copytree(first.folder, tmp_path / "undisturbed", symlinks=True)
    second = Project.__new__(Project)
    second.folder, second.servers = tmp_path / "undisturbed", first.servers
    commands = [Commands(first), Commands(second)]
    yield commands
    for one in commands:
        one.close()


def blocks(project: Project) -> set[Path]:
    """Blocks that are whole and wait to be packed."""
    own = re.compile(r"\d{8}\.[0-9a-f]{64}")
    return {path for path in (project.folder / ".fewstep").rglob("*") if own.fullmatch(path.name)}


def test_an_encoding_killed_between_its_blocks_ends_in_the_same_bytes(projects):
    killed, undisturbed = projects
    events = undisturbed.check("stage", "run", "encode").events["encode"]
    seen = []
    for number in range(events // 10, events, 3):       # less than a block makes: some kills lie between two
        if killed.run("stage", "run", "encode", fatal=("encode", number)).code != KILLED:
            break
        seen.append(len(blocks(killed.project)))
        if seen[-1] > 2:
            break
    assert any(0 < count < 5 for count in seen), seen
    killed.check("stage", "run", "encode")
    assert killed.project.digests()["encoded"] == undisturbed.project.digests()["encoded"]
    check_bytes(killed.project, undisturbed.project, "encoded")
    assert leftovers(killed.project) == []

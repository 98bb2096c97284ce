"""Projects whose stages take moments: one in which all were made, copies of it, and one with nothing made yet."""

import shutil
from pathlib import Path

import pytest

from tests.fake_project import STAGES, FakeProject


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A project in which every stage was made by our runner."""
    project = FakeProject(tmp_path_factory.mktemp("finished") / "project")
    assert project.all() == dict.fromkeys(STAGES, "made")
    return project.folder


@pytest.fixture
def project(finished, tmp_path) -> FakeProject:
    """A copy of it to do something to."""
    shutil.copytree(finished, tmp_path / "project")
    return FakeProject.at(tmp_path / "project")


@pytest.fixture
def fresh(finished, tmp_path) -> FakeProject:
    """The same project with nothing made yet."""
    made = shutil.ignore_patterns(".fewstep", "cache", "tmp", "dvc.lock")
    shutil.copytree(finished, tmp_path / "project", ignore=made)
    shutil.rmtree(tmp_path / "project" / "data")
    return FakeProject.at(tmp_path / "project")

"""From `fewstep init` to a registered version in a workspace of one's own: whole runs of tiny networks."""

from __future__ import annotations

import json

import pytest

from tests.apart import ApartWorkspace
from tests.project import TINY, Project, _git


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> ApartWorkspace:
    """A workspace with a registered version; of its code a file was changed and not committed."""
    folder = tmp_path_factory.mktemp("apart")
    code = Project(folder / "code")
    made = ApartWorkspace(folder / "space", code, folder / "cache")
    sets = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    made.check("run", *sets)
    return made


def run_of(workspace: ApartWorkspace) -> dict:
    return json.loads(workspace.check("status", "--json"))["runs"][0]


def test_the_version_leads_to_the_commits_of_workspace_and_code(workspace):
    walked = json.loads(workspace.check("lineage", "digits@champion", "--json"))
    links = {link["title"]: link for link in walked["lineage"]["inputs"]}
    assert {link["state"] for link in links.values()} == {"verified"}
    assert links["commit"]["digest"] == _git(workspace.folder, "rev-parse", "HEAD")
    assert links["code"]["digest"] == _git(workspace.code.folder, "rev-parse", "HEAD")
    users = json.loads(workspace.check("lineage", "--uses", links["code"]["digest"][:12], "--json"))
    assert "code" in json.dumps(users)
    code = _git(workspace.code.folder, "rev-parse", "HEAD")[:10]
    assert f"code {code}" in workspace.check("status")
    assert code in (workspace.folder / "data" / "report" / "README.md").read_text()


def test_an_isolated_run_works_in_worktrees_of_both_and_says_that_the_code_was_changed(workspace):
    edited = workspace.code.folder / "fewstep" / "recipes" / "own.yaml"
    edited.write_text((edited.parent / "kd.yaml").read_text())
    _git(workspace.folder, "commit", "-qam", "tiny settings")
    try:
        workspace.check("run", "--isolated", "--set", "seed=1", "--set", "distill.recipe=own")
    finally:
        edited.unlink()
    assert "with changes" in workspace.check("status")
    assert not (workspace.folder / ".fewstep" / "sources").exists() \
        or not any((workspace.folder / ".fewstep" / "sources").iterdir())
    assert len(_git(workspace.code.folder, "worktree", "list").splitlines()) == 1
    assert _git(workspace.code.folder, "for-each-ref", "refs/fewstep/runs")

"""The pages as their reader runs them, on tiny settings: every block that is marked as tried, in a shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.apart import ApartWorkspace
from tests.fewstep.families.pipelines import KINDS
from tests.pipeline.tiny_runs import captioned
from tests.project import ROOT, TINY, Project, _git
from tests.website.shell_blocks import PAGES, blocks

FEWSTEP = """#!/bin/sh
# fewstep of the code beside this folder; a workspace that begins with the default settings gets tiny ones
case " $* " in *" --from "*) ;; *" init "*) set -- "$@" --from "{tiny}" ;; esac
exec "{python}" -m flows.cli "$@"
"""
IDENTITY = {f"GIT_{who}_{what}": "reader@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


HOW_TO = {  # pages whose commands the digits' workspace can run, and what these say
    "run-and-continue": "report", "use-a-student": "every byte verified", "promote": "champion", "backup": "monday",
    "change-code": "nothing to accept", "recipes": "my-recipe", "workspaces": "sdxl is a workspace",
    "machines": "each of 8",
}  # fmt: skip
FILE = re.compile(r"^```yaml\n(?:# ([\w-]+\.yaml)[^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""A file that a page shows, by its first line."""


class Reader:
    """Somebody with a home, an installation of the code in it, and a terminal."""

    def __init__(self, home: Path):
        self.home, self.code = home, Project(home / "code")
        (home / "bin").mkdir()
        tiny = Project(home / "tiny", TINY).folder / "params.yaml"
        shim = home / "bin" / "fewstep"
        shim.write_text(FEWSTEP.format(tiny=tiny, python=sys.executable))
        shim.chmod(0o755)

    def follow(self, page: str, folder: Path) -> str:
        """Runs what is tried of a page, one block after the other, in one shell; what it said."""
        tried = [block.text for block in blocks(ROOT / "docs" / page) if block.tried]
        assert tried, f"{page} has no block that is tried"
        path = os.pathsep.join([str(self.home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = self.code.environment(HOME=str(self.home), PATH=path, **IDENTITY,
                                            FEWSTEP_CACHE=str(self.home / "cache"))
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", "\n".join(tried)], cwd=folder, env=environment,
                              capture_output=True, text=True)
        assert done.returncode == 0, f"{page}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def workspace(self, name: str) -> ApartWorkspace:
        """A workspace that was made as the pages say, outside the clone."""
        found = ApartWorkspace.__new__(ApartWorkspace)
        found.folder, found.code = self.home / "experiments" / name, self.code
        return found


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    return Reader(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def digits(reader) -> ApartWorkspace:
    """The workspace of the quick start, followed to its end from where `make run` was called."""
    said = reader.follow("quick-start.md", reader.code.folder)
    assert "every byte verified" in said and "digits is a workspace" in said
    return reader.workspace("digits")


def test_what_is_tried_is_tried():
    tried = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES if any(block.tried for block in blocks(path))}
    assert tried == {"quick-start.md", "tutorials/own-images.md", "tutorials/own-teacher.md",
                     "tutorials/nightly-run.md", "tutorials/promotion.md", *(f"how-to/{name}.md" for name in HOW_TO)}


def test_the_quick_start_ends_with_a_version_that_leads_to_the_commits_of_workspace_and_code(digits):
    assert Image.open(digits.folder / "grid.png").size[0] > 8
    walked = json.loads(digits.check("lineage", "digits@champion", "--json"))
    links = {link["title"]: link for link in walked["inputs"]}
    assert walked["state"] == "verified" and {link["state"] for link in links.values()} == {"verified"}
    assert links["commit"]["digest"] == _git(digits.folder, "rev-parse", "HEAD~")   # the reader has committed since
    code = _git(digits.code.folder, "rev-parse", "HEAD")
    assert links["code"]["digest"] == code
    users = json.loads(digits.check("lineage", "--uses", code[:12], "--json"))
    assert [row["what"] for row in users] == [["code"]]
    assert f"code {code[:10]}" in digits.check("status")
    assert code in (digits.folder / "data" / "report" / "README.md").read_text()


@pytest.mark.slow
def test_an_isolated_run_works_in_worktrees_of_both_and_says_that_the_code_was_changed(digits):
    edited = digits.code.folder / "fewstep" / "recipes" / "own.yaml"
    edited.write_text((edited.parent / "kd.yaml").read_text())
    try:
        digits.check("run", "--isolated", "--set", "seed=1", "--set", "distill.recipe=own")
    finally:
        edited.unlink()
    assert "with changes" in digits.check("status")
    sources = digits.folder / ".fewstep" / "sources"
    assert not sources.exists() or not any(sources.iterdir())
    assert len(_git(digits.code.folder, "worktree", "list").splitlines()) == 1
    assert _git(digits.code.folder, "for-each-ref", "refs/fewstep/runs")


@pytest.mark.parametrize(("page", "said"), [("nightly-run", "schedule nightly"), ("promotion", "champion")])
def test_tutorials_that_go_on_with_the_digits(reader, digits, page, said):
    assert said in reader.follow(f"tutorials/{page}.md", digits.folder)


@pytest.mark.parametrize(("page", "said"), HOW_TO.items())
def test_commands_of_the_how_tos(reader, digits, page, said):
    for name, text in FILE.findall((ROOT / "docs" / "how-to" / f"{page}.md").read_text()):
        (digits.folder / name).write_text(text)
    assert said in reader.follow(f"how-to/{page}.md", digits.folder)


def test_the_tutorial_of_own_images(reader):
    for number in range(60):
        path = reader.home / "pictures" / "cdf"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * 4, 255 - number, number)).save(path)
    said = reader.follow("tutorials/own-images.md", reader.code.folder)
    assert "make  never made" in said
    assert _git(reader.workspace("pictures").folder, "status", "--short") == ""


@pytest.mark.slow
def test_the_tutorial_of_an_own_teacher(reader):
    KINDS["sd"].save(reader.home / "models" / "teacher")
    table = captioned(reader.home / "captions", 32, 24)
    table.rename(table.with_name("captions.csv"))
    said = reader.follow("tutorials/own-teacher.md", reader.code.folder)
    assert "StableDiffusionPipeline" in said and "encode" in said

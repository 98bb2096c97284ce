"""What a given teacher cannot encode is refused by `fewstep run`, and by --dry-run, before anything is written."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from flows.cli import main
from tests.fewstep.families.pipelines import KINDS, LINES, text_unet
from tests.project import Project

PROMPTS = [f"{line} {number}" for line in LINES for number in range(8)]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    """Of texts with guidance, and one whose network is told the scale, so that no negative text is read."""
    found = {name: tmp_path_factory.mktemp(name) / "teacher" for name in ("guided", "told")}
    pipe = KINDS["sd"].save(found["guided"])
    pipe.register_modules(unet=text_unet(time_cond_proj_dim=8))
    pipe.save_pretrained(found["told"])
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("refused") / "project")


@pytest.mark.parametrize(("kind", "prompts", "sets", "said"), [
    ("guided", [*PROMPTS, *(f"{line} {'apple ' * 20}" for line in LINES)], [],
     "5 of 45 prompts are longer than the 16 tokens that the teacher reads: 'a red apple"),
    ("told", PROMPTS, ["encode.negative_prompt=blurred"],
     "encode.negative_prompt: StableDiffusionPipeline has no guidance that would read it"),
    ("guided", PROMPTS, ["encode.height=33", "encode.width=32"], "have to be divisible by 8 but are 33 and 32"),
    ("guided", PROMPTS, ["encode.max_bytes=1000"], "would take at least 8.4e-05 GB, encode.max_bytes allows 1e-06 GB"),
], ids=["long", "negative", "size", "bytes"])  # fmt: skip
@pytest.mark.parametrize("how", [["--dry-run"], []], ids=["dry-run", "run"])
def test_it_is_refused_and_nothing_is_written(project, teachers, tmp_path, monkeypatch, how, kind, prompts, sets, said):
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    sets = [f"teacher.source={teachers[kind]}", f"data.prompts={tmp_path / 'prompts.txt'}", "distill.recipe=kd", *sets]
    before, params = state(project), (project.folder / "params.yaml").read_bytes()
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr("flows.commands.pipeline.run.execute", None)    # what is not refused does not run for minutes
    err = io.StringIO()
    with contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(["run", *how, *(word for one in sets for word in ("--set", one))])
    assert stop.value.code == 2
    assert said in " ".join(err.getvalue().split()), err.getvalue()
    assert state(project) == before and (project.folder / "params.yaml").read_bytes() == params


def state(project: Project) -> list[str]:
    """Every file of the project but git's own and what any command remembers of files that it read."""
    files = (path.relative_to(project.folder).as_posix() for path in project.folder.rglob("*"))
    return sorted(name for name in files if not name.startswith((".git/", ".fewstep/stat.sqlite"))
                  and name not in (".fewstep", ".fewstep/parsed.json") and "__pycache__" not in name)  # fmt: skip

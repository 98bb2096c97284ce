"""Every file in examples/ is checked by `fewstep run --dry-run` on a tiny pipeline of its kind, as its user would.

Three of them in `make test`, the others in `make test-slow`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fewstep.util.errors import SettingsError
from tasks.config import params_file
from tasks.config.settings_source import source_of
from tests.fewstep.families.pipelines import KINDS
from tests.pipeline.tiny_runs import captioned
from tests.project import ROOT, Project

EXAMPLES = {  # the family of its teacher, and what its data are
    "sdxl-dmd2": ("sdxl", "captions"), "sdxl-lcm-lora": ("sdxl", "captions"), "sd3-tdm": ("sd3", "prompts"),
    "flux-pi-flow": ("flux", "prompts"), "wan-phased-dmd": ("wan", "prompts"), "dit-dmd2": ("dit", "classes"),
    "captioned-images": ("sd", "captions"), "emoji": ("sd", "captions"),
}  # fmt: skip


def test_every_example_is_tried():
    assert sorted(path.stem for path in (ROOT / "examples").glob("*.yaml")) == sorted(EXAMPLES)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_given_teacher_is_trained_at_a_rate_and_in_batches_that_were_chosen_for_it(name):
    settings = params_file.load(ROOT / "examples" / f"{name}.yaml")
    chosen = settings.distill.model_fields_set
    assert settings.teacher.given and chosen & {"preset", "lr"} and "batch" in chosen
    if name != "emoji":     # whose teacher is small
        assert settings.distill.preset == "published"
        assert settings.trajectories.record_size in ("auto", 32, 128) and settings.evaluate.batch <= 100


def test_an_example_is_found_by_its_name_and_by_its_place_in_the_code_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sd3-tdm", "sd3-tdm.yaml", "examples/sd3-tdm.yaml"):
        assert source_of(name, "--params") == ROOT / "examples" / "sd3-tdm.yaml"
    Path("sd3-tdm.yaml").write_text("name: own\n")
    assert source_of("sd3-tdm.yaml", "--params") == Path("sd3-tdm.yaml")
    with pytest.raises(SettingsError, match="--params sd3-tmd: no such file.*did you mean 'sd3-tdm'"):
        source_of("sd3-tmd", "--params")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("examples") / "project")


@pytest.fixture(scope="module")
def teachers(tmp_path_factory) -> dict[str, Path]:
    """A tiny pipeline of every family that the examples name."""
    found = {kind: tmp_path_factory.mktemp(kind) / "teacher" for kind, _ in EXAMPLES.values()}
    for kind, folder in found.items():
        KINDS[kind].save(folder)
    return found


def classes(folder: Path) -> Path:
    for number in range(24):
        path = folder / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number * 9, 0, 0)).save(path)
    return folder


QUICK = ("captioned-images", "dit-dmd2", "sd3-tdm")
"""One of each kind of data; `make test-slow` tries the others."""


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in sorted(EXAMPLES, key=lambda name: (EXAMPLES[name][1], name))])
def test_a_dry_run_takes_it_and_says_what_would_be_made(project, teachers, tmp_path, name):
    kind, data = EXAMPLES[name]
    sets = [f"teacher.source={teachers[kind]}"]
    if data == "prompts":
        (tmp_path / "prompts.txt").write_text("".join(f"{count} red apples\n" for count in range(40)))
        sets.append(f"data.prompts={tmp_path / 'prompts.txt'}")
    else:
        given = classes(tmp_path / "images") if data == "classes" else captioned(tmp_path / "images", 32, 24)
        project.check("data", "add", "--replace", str(given))
    if kind == "wan":   # the tiny network has no places for as many tokens as the example's videos have
        sets += [f"encode.{name}={value}" for name, value in KINDS[kind].arguments.items()]
    words = [word for one in sets for word in ("--set", one)]
    told = project.check("run", "--dry-run", "--params", name, *words)
    assert all(stage in told for stage in ("encode", "teacher", "trajectories", "distill")), told
    assert "memory of " in told and "activations" in told and "`fewstep estimate`" in told, told
    assert ("texts, encoded" in told) == (data != "classes") and ("images, as states" in told) == (data != "prompts")
    assert not (project.folder / "data" / "encoded").exists()

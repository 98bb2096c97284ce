"""Prompts and no images, from a teacher's folder to a registered student: the teacher draws reference and data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fewstep.data.images import load_split
from fewstep.families.encoded_set import EncodedSet
from tasks.registry.aliases import history
from tasks.registry.model_registry import Registry
from tasks.storage.workspace import Workspace
from tests.fewstep.families.pipelines import KINDS
from tests.pipeline import tiny_runs
from tests.pipeline.tiny_runs import PROMPTS, settings
from tests.project import Project


def sets(teacher: Path, prompts: Path, **more: object) -> list[str]:
    chosen = {**settings("sd", teacher), "distill.recipe": "dmd2", "data.prompts": prompts, **more}
    return tiny_runs.sets(chosen)


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[Project, Path, Path]:
    root = tmp_path_factory.mktemp("alone")
    KINDS["sd"].save(root / "teacher")
    (root / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return Project(root / "project"), root / "teacher", root / "prompts.txt"


@pytest.mark.parametrize(("changed", "words"), [
    ({"teacher.source": "train"}, "there are prompts and no images: nothing can train a teacher"),
])
def test_what_needs_images_is_refused_before_any_work(given, changed, words):
    project, teacher, prompts = given
    done = project.run("run", *sets(teacher, prompts, **changed))
    assert done.returncode == 2 and words in " ".join(done.stderr.split()), done.stderr
    assert not (project.folder / "data" / "shards").exists()


def test_too_few_prompts_to_keep_some_apart_are_refused_before_any_work(given, tmp_path):
    project, teacher, _ = given
    (tmp_path / "few.txt").write_text("a red apple\n")
    done = project.run("run", *sets(teacher, tmp_path / "few.txt"))
    words = " ".join(done.stderr.split())
    assert done.returncode == 2 and "there is no prompt in the" in words and "data.split." in words, done.stderr
    assert not (project.folder / "data" / "shards").exists()


@pytest.fixture(scope="module")
def finished(given) -> tuple[Project, str]:
    """The project after a run of the recipe dmd2, and what it printed. The default floor of copies stands."""
    project, teacher, prompts = given
    return project, project.check("run", *sets(teacher, prompts, **{"register.floors.max_copies": 0.3}))


def read(project: Project, name: str) -> dict:
    return json.loads((project.folder / "data" / name).read_bytes())


def test_the_reference_is_drawn_for_the_prompts_of_each_split_from_noise_of_its_own(finished):
    folder = finished[0].folder / "data" / "reference"
    table = EncodedSet(finished[0].folder / "data" / "encoded").prompt_table()
    seen = []
    for split in ("train", "fit", "test"):
        images = load_split(folder, split)
        rows, counts = np.unique(images.prompts.numpy(), return_counts=True)
        assert len(images) == 32 and rows.tolist() == table.rows(split).tolist() and counts.max() - counts.min() <= 1
        assert images.captions == [table.texts[row] for row in images.prompts.tolist()]
        assert images.drawn == "the teacher's samples at 4 steps (DPM-Solver++)"
        seen += [image.numpy().tobytes() for image in images.images()]
    assert len(set(seen)) == len(seen)


def test_samples_of_the_teacher_stand_for_the_data_of_the_recipe(finished):
    project, printed = finished
    assert read(project, "trajectories/set.json")["count"] == 32
    told = "recipe dmd2 trains on data, and there are prompts and no images: 32 samples of the teacher stand for them"
    assert told in " ".join(printed.split())


def test_no_figure_of_the_teacher_is_called_real_and_no_copies_are_counted(finished):
    project, printed = finished
    metrics, evaluation = read(project, "evaluation/metrics.json"), read(project, "evaluation/evaluation.json")
    told = "the teacher's samples at 4 steps (DPM-Solver++)"
    assert metrics["measured"]["reference"] == metrics["drawn"] == evaluation["drawn"] == told
    assert metrics["real"] == {} and metrics["redrawn"]["fd_infinite"] is not None
    assert evaluation["floor"]["subject"] == "teacher again"
    rows = [evaluation["floor"], *evaluation["student"], *evaluation["rows"]]
    assert not [name for row in rows for name in row["values"] if name.startswith("nearest")]
    page = (project.folder / "data" / "report" / "report.html").read_text()
    for text in (printed, page):
        plain = " ".join(text.replace("&#x27;", "'").split())
        assert told in plain and "real images" not in plain.replace("There are no real images", "")


@pytest.mark.slow
def test_the_student_is_registered_promoted_and_held_against_a_champion(finished, given):
    project, teacher, prompts = given
    assert read(project, "registration/registration.json")["promoted"]
    project.check("run", *sets(teacher, prompts, **{"register.promote": "gated", "distill.images": 128}))
    decided = read(project, "registration/registration.json")
    assert decided["version"] == 2 and decided["policy"] == "gated"
    contest = history(Registry(Workspace(project.folder)), decided["model"])[-1].figures["contest"]
    # The contest was held in every figure, whichever student came out ahead.
    assert {found["metric"] for found in contest["contrasts"]} == {"kid", "retrieval", "repeats"}, contest
    lineage = project.run("lineage", "sd").stdout
    assert "reference" in lineage, lineage

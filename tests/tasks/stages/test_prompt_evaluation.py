"""From captioned images to the evaluation of a student of texts, on a tiny stock pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.diffusion.randomness import generator
from fewstep.families.encoded_set import EncodedSet
from fewstep.util.config import parse
from tasks.config.schema import Settings
from tasks.registry.gate.promotion_checks import check_floors
from tests.fewstep.families.pipelines import KINDS
from tests.tasks.stages.evaluation_world import World

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "grey": (120, 120, 120)}
THINGS = ("car", "tree", "apple")


def captioned(folder: Path, count: int, size: int) -> Path:
    """Images whose colour says their caption, in groups by thing."""
    folder.mkdir(parents=True)
    chance, rows = generator(0, "images"), []
    for number in range(count):
        name, thing = list(COLOURS)[number % 4], THINGS[number // 4 % 3]
        noise = torch.randint(-15, 16, (size, size, 3), generator=chance).numpy()
        pixels = np.full((size, size, 3), COLOURS[name]) + noise
        pixels[: size // 2, :, THINGS.index(thing)] //= 2
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"name": f"{number}.png", "caption": f"a {name} {thing}", "group": thing})
    (folder / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("prompts")
    KINDS["sd"].save(root / "pipeline")
    made = World(root / "world", images=captioned(root / "images", 240, 32), teacher=root / "pipeline")
    known = KINDS["sd"].arguments
    sizes = {name: value for name, value in known.items() if name in ("height", "width")}
    made.settings = parse(Settings, {
        "data": {"source": "raw"}, "encode": {**sizes, "arguments": {k: v for k, v in known.items() if k not in sizes}},
        "teacher": {"source": str(root / "pipeline"), "check": {"samples": 16, "steps": 2, "max_distance_ratio": 1e9}},
        "trajectories": {"count": 16, "steps": 2, "record_size": 8},
        "distill": {"images": 8, "batch": 4, "recipe": "kd"},
        "evaluate": {"samples": 48, "batch": 24, "steps": [1, 2], "baseline_steps": [1, 2], "grid": 3,
                     "solvers": ["ddim", "dpmsolver++"], "classifier": {"images": 3_200, "batch": 32}},
    }, "test")
    for stage in ("shard", "encode"):
        made.run(stage)
    made.summary = made.run("classifier")
    for stage in ("teacher", "trajectories", "distill", "baselines", "evaluate"):
        made.run(stage)
    return made


def read(world: World, stage: str, name: str) -> dict:
    return json.loads((world.folder(stage) / name).read_text())


def test_the_features_find_captions_of_images_that_they_were_not_fitted_to(world):
    assert world.summary["features"] == "text-16" and world.summary["test_retrieval"] > 0.5
    table = EncodedSet(world.folder("encode")).prompt_table()
    assert table.groups == ("apple", "car", "tree") and table.embedding.shape[0] == len(table) == 12


def test_samples_are_judged_by_their_prompts(world):
    document = read(world, "evaluate", "evaluation.json")
    table = EncodedSet(world.folder("encode")).prompt_table()
    assert set(document["prompts"].values()) == set(table.texts)
    row, floor = document["student"][0], document["floor"]
    protocol = document["protocols"][row["values"]["retrieval"]["protocol"]]
    assert protocol["features"] == "text-16" and protocol["conditions"] == "12 of the test split's 12 prompts in turn"
    assert protocol["parameters"]["among"] == 12 and protocol["parameters"]["prompts"] == 12
    assert floor["values"]["retrieval"]["value"] > 0.5 > row["values"]["retrieval"]["value"]
    low, high = row["values"]["retrieval"]["interval"]
    assert 0 <= low <= row["values"]["retrieval"]["value"] <= high <= 1
    assert "class_accuracy" not in row["values"] and "text_alignment" in row["values"]
    assert document["protocols"][row["values"]["diversity"]["protocol"]]["parameters"]["within"] == "prompts"
    assert [part["class"] for part in row["classes"]] == ["apple", "car", "tree"]
    assert sum(part["n"] for part in row["classes"]) == 48
    assert all("retrieval" in part and "accuracy" not in part for part in (*row["classes"], *floor["classes"]))


def test_every_prompt_is_asked_for_alike_often(world):
    from tasks.evaluation.examination_setup import stage_examination

    context = world.context("evaluate", "asked")
    rows = stage_examination(context, 12).plan.classes
    assert torch.bincount(rows, minlength=12).tolist() == [4] * 12


def test_floors_are_those_of_prompts(world):
    measured = read(world, "evaluate", "metrics.json")["floors"]
    assert set(measured) == {"distance_ratio", "recall", "copies", "retrieval", "text_alignment"}
    reasons, figures = check_floors(measured, {"min_class_accuracy": 0.8, "min_retrieval": 0.99})
    assert len(reasons) == 1 and reasons[0].startswith("retrieval is ") and "class_accuracy" not in figures
    reasons, _ = check_floors({"class_accuracy": 0.9}, {"min_class_accuracy": 0.8, "min_retrieval": 0.9})
    assert not reasons
    reasons, _ = check_floors({"retrieval": None}, {"min_retrieval": 0.9})
    assert reasons == ["retrieval was not measured, and register.floors.min_retrieval asks for it"]
    reasons, figures = check_floors({"retrieval": 0.9}, {"max_copies": 0.3, "min_retrieval": 0.8}, drawn=True)
    assert not reasons and figures == {"retrieval": 0.9}


def test_the_gate_sees_a_student_that_forgets_its_prompts(world):
    from dataclasses import replace

    from fewstep.metrics.comparison.noninferiority import judge
    from fewstep.metrics.comparison.prompt_contrasts import prompt_contrasts
    from tasks.config.schema import Gate
    from tasks.evaluation.examination_setup import stage_examination

    test = stage_examination(world.context("evaluate", "gate"), 12)
    images, rules = test.images, Gate()
    asked = test.plan.classes
    reference = images.observed
    shown = images.test.prompts
    pick = np.array([int(np.flatnonzero(shown.numpy() == row)[0]) for row in asked.tolist()])
    seen = replace(reference, features=reference.features[pick], embedding=reference.embedding[pick],
                   nearest=reference.nearest[pick], nearest_features=reference.nearest_features[pick])
    wrong = replace(seen, features=np.roll(seen.features, 1, axis=0), embedding=np.roll(seen.embedding, 1, axis=0))
    found = prompt_contrasts(wrong, seen, reference, test.asked((wrong, seen)), rules.margins.model_dump())
    named = {one.name: one for one in found}
    assert {"kid", "retrieval", "retrieval of group car", "copies", "repeats"} <= set(named)
    assert named["retrieval"].champion > 0.5 > named["retrieval"].candidate
    verdicts = {one.contrast.name: one.verdict for one in judge(found, rules.level,
                                                                rules.power).findings}
    assert verdicts["retrieval"] == "worse"
    same = prompt_contrasts(seen, seen, reference, test.asked((seen, seen)), rules.margins.model_dump())
    assert all(one.excess == 0 for one in same)


def test_the_report_shows_pictures_with_their_prompts(world):
    from tasks.evaluation.documents import EVALUATION, Evaluation
    from tasks.evaluation.documents import read as read_document
    from tasks.report.page import render
    from tasks.report.report_data import PICTURES, Material, load_file

    folder = world.folder("evaluate")
    page = render([Material(label="mine", document=read_document(Evaluation, folder / EVALUATION),
                            pictures=load_file(folder / PICTURES))])  # fmt: skip
    assert "By group of prompts" in page and "<li>a red car</li>" in page and "prompt found %" in page
    assert "class %" not in page and "each row one prompt" in page

"""The model card: what it tells of a student, and what a registry shows of it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import torch
from PIL import Image

from fewstep.students.export import export_student, load_student
from fewstep.students.student import make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import load_teacher
from fewstep.util.plain_data import from_yaml
from tasks.registry.packaged.pyfunc_model import package, tree_digest
from tasks.report import build, report_data
from tasks.report.model_card import CARD, in_registry, licence_of, model_card
from tasks.report.report_data import Material
from tests.fewstep.families.image_pipelines import SEEING
from tests.fewstep.families.pipelines import KINDS, PIXELS
from tests.project import checkout_in
from tests.tasks.stages.evaluation_world import World


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    world = World(tmp_path_factory.mktemp("card"), {"samples": 64, "batch": 32, "steps": [1], "baseline_steps": [1, 2],
                                                    "solvers": ["ddim"], "classifier": {"images": 640}})  # fmt: skip
    for stage in ("shard", "classifier"):
        world.run(stage)
    world.add_models()
    for stage in ("baselines", "evaluate"):
        world.run(stage)
    workspace = checkout_in(world.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_data, "curves", lambda workspace, distill: {})
        folder = build.make(workspace, "digits")
    card = (folder / CARD).read_text()
    return SimpleNamespace(world=world, folder=folder, card=card, material=Material.load(folder))


def test_it_has_the_head_that_hubs_read_and_every_figure_with_its_protocol(made):
    head = from_yaml(made.card.split("---\n")[1])
    assert head["library_name"] == "diffusers" and head["pipeline_tag"] == "unconditional-image-generation"
    assert "fewstep" in head["tags"] and "license" not in head
    first = made.material.document.first
    for text in ("# fewstep-digits", "models:/fewstep-digits@champion", '{"class": [0, 1, 2, 3]}', "class_labels=",
                 "fewstep sample fewstep-digits@champion", f"{first.value('fd_infinite'):.3f}", "teacher (DDIM)",
                 "eval.:", made.material.stages["evaluate"].digest[:16], "the licence of its images"):
        assert text in made.card, text
    assert str(made.world.root) not in made.card
    assert model_card(made.material, made.world.folder("distill"), None) == made.card


def exported(kind: str, folder: Path) -> Path:
    """A student of this tiny pipeline, as it leaves."""
    one = {**KINDS, **SEEING, **PIXELS}[kind]
    one.save(folder / "teacher")
    teacher = load_teacher(folder / "teacher", arguments=one.arguments)
    with torch.no_grad():
        student = make_student(teacher, StudentSettings(steps=2))
        export_student(student, folder / "student", teacher=folder / "teacher")
    return folder / "student"


@pytest.mark.parametrize(("kind", "count", "options"), [
    ("digits", 4, "@champion`"), ("dit", 4, "@champion`"), ("sd", 1, '@champion --prompt "a red apple"`'),
    ("unet", 3, "@champion`"), ("ddpm", 4, "@champion`"),
    ("inpainting", 1, '@champion --prompt "a red apple" --image image.png --mask mask_image.png`'),
])
def test_the_python_that_it_shows_samples_the_student(made, tmp_path, monkeypatch, kind, count, options):
    student = made.world.folder("distill") if kind == "digits" else exported(kind, tmp_path)
    card = model_card(made.material, student, None)
    assert options in card
    monkeypatch.chdir(tmp_path)
    shutil.copytree(student, "artifacts/pipeline", ignore=shutil.ignore_patterns("manifest.json"))
    for name in ("image", "mask_image"):
        Image.new("RGB", (20, 30), (200, 40, 40)).save(f"{name}.png")
    registered, alone = (code.split("```")[0] for code in card.split("```python\n")[1:])
    *loading, asking = alone.rstrip().splitlines()
    shown, steps = {}, []
    exec("\n".join(loading), shown)
    network = getattr(shown["pipe"], "unet", None) or shown["pipe"].transformer
    network.register_forward_hook(lambda *_: steps.append(1))
    exec(asking, shown)
    assert len(shown["samples"]) == count
    assert len(steps) == load_student(student).sampler.steps
    package(Path("artifacts/pipeline"), tree_digest(Path("artifacts/pipeline")), Path("model"), run_id="", model_id="")
    with monkeypatch.context() as patch:
        load = mlflow.pyfunc.load_model
        patch.setattr(mlflow.pyfunc, "load_model", lambda uri: load("model"))
        exec(registered, shown)
    assert len(shown["samples"]) == count


def test_its_pictures_lie_beside_it(made):
    for name, told in (("student.png", "The student, 1 step"), ("teacher.png", "The teacher from the same noise")):
        assert f"]({name})" in made.card and told in made.card
        assert min(Image.open(made.folder / name).size) >= 32
    assert ".png" not in in_registry(made.card)
    bare = made.material.model_copy(update={"pictures": {}})
    assert ".png" not in model_card(bare, made.world.folder("distill"), None)


@pytest.mark.parametrize(("text", "found"), [
    ("---\nlicense: openrail++\nlicense_link: https://x\ntags: [a]\n---\n# x", {"license": "openrail++",
                                                                              "license_link": "https://x"}),
    ("---\nlicense: [mit]\n---\n", {}), ("---\n[\n---\n", {}), ("# no head", {}),
    ("---\nlicense: mit", {"license": "mit"}),
])
def test_a_given_teacher_s_card_tells_its_licence(text, found, made, tmp_path):
    (tmp_path / CARD).write_text(text)
    assert licence_of(tmp_path) == found
    card = model_card(made.material, made.world.folder("distill"), tmp_path)
    assert (f"license: {found['license']}" in card) if found else ("tells no licence" in card)


def test_what_is_no_text_is_no_licence(tmp_path):
    (tmp_path / CARD).write_bytes(b"---\nlicense: \xff\n---\n")
    assert licence_of(tmp_path) == {} and licence_of(tmp_path / "nowhere") == {} and licence_of(None) == {}


def test_the_registry_shows_whole_sections_as_far_as_it_keeps_them(made):
    shown = in_registry(made.card)
    assert shown.startswith("# fewstep-digits") and "## Sample" in shown and len(shown) <= 5_000
    long = in_registry(made.card.replace("## Where it comes from", "## Where it comes from\n" + "x" * 5_000))
    assert "## Figures" in long and "## Where" not in long and "More in the model's own README.md" in long

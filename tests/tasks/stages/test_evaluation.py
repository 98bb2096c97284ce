"""From images to the summary: figures, protocols, resuming, and what is refused."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fewstep.util.errors import NonFinite, NotAvailable, SettingsError
from tasks.engine import graph
from tasks.evaluation.baseline_plan import plan, teacher_baseline
from tasks.evaluation.settings import BaselinesSettings
from tasks.report import results_table
from tasks.stages.baselines import BaselinesStage
from tasks.stages.evaluate import EvaluateStage
from tests.tasks.stages.evaluation_world import World, contents


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    made = World(tmp_path_factory.mktemp("evaluation"))
    made.run("shard")
    made.summary = made.run("classifier")
    made.add_models()
    made.run("baselines")
    made.run("evaluate")
    return made


def read(world: World, stage: str, name: str) -> dict:
    return json.loads((world.folder(stage) / name).read_text())


def test_the_classifier_recognises_what_it_has_not_seen(world):
    assert world.summary["test_accuracy"] >= 0.9
    assert world.summary["features"] == "classifier-16"


def test_units_are_solvers_at_the_counts_they_can_have():
    settings = BaselinesSettings(samples=100, batch=10, seed=0, extractors={}, solvers=("ddim", "heun"),
                                 baseline_steps=(1, 2, 4, 8, 16), guidance=1.0)  # fmt: skip
    named = {unit.name: unit for unit in plan(settings)}
    assert list(named) == ["ddim-1", "ddim-2", "ddim-4", "ddim-8", "ddim-16", "heun-1", "heun-3", "heun-7", "heun-15"]
    assert named["heun-1"].asked == (1, 2) and named["heun-15"].steps == 8
    guided = {unit.name: unit.steps for unit in plan(settings.model_copy(update={"guidance": 2.0}))}
    assert guided == {"ddim-2": 1, "ddim-4": 2, "ddim-8": 4, "ddim-16": 8, "heun-2": 1, "heun-6": 2, "heun-14": 4}
    assert teacher_baseline(plan(settings)).name == "ddim-16"


def test_every_value_has_its_n_interval_and_protocol(world):
    document = read(world, "evaluate", "evaluation.json")
    rows = [*document["student"], *document["rows"], document["floor"]]
    assert len(rows) == 2 + 8 + 1
    for row in rows:
        for name, entry in row["values"].items():
            protocol = document["protocols"][entry["protocol"]]
            assert protocol["metric"] == name and math.isfinite(entry["value"]) and entry["n"] >= 1
            assert name == "fd_bias" or entry["interval"][0] <= entry["value"] <= entry["interval"][1]
            assert protocol["features"] == "classifier-16" and protocol["reference_samples"] == document["reference"]
    student, floor = document["student"][0]["values"], document["floor"]["values"]
    assert student["fd_infinite"]["protocol"] == document["rows"][0]["values"]["fd_infinite"]["protocol"]
    assert floor["fd_infinite"]["value"] < 0.3 < student["fd_infinite"]["value"]  # an untrained teacher is far away
    assert floor["class_accuracy"]["value"] > 0.85 and abs(floor["kid"]["value"]) < 0.05


def test_an_untrained_copy_equals_its_teacher_and_says_so(world):
    """A student that is the teacher's copy is DDIM: same images from the same noise, difference exactly zero."""
    document = read(world, "evaluate", "evaluation.json")
    found = document["comparisons"]["1"]
    assert found["fd_ratio"] == pytest.approx(1, abs=1e-4) and found["kid_difference"] == pytest.approx(0, abs=1e-6)
    ddim = next(row for row in document["rows"] if (row["solver"], row["evaluations"]) == ("ddim", 1))
    for name, entry in document["student"][0]["values"].items():
        assert entry["value"] == pytest.approx(ddim["values"][name]["value"], rel=1e-3, abs=1e-6), name


def test_metrics_are_flat_numbers_with_floors(world):
    metrics = read(world, "evaluate", "metrics.json")

    def leaves(value):
        return [x for part in value.values() for x in leaves(part)] if isinstance(value, dict) else [value]

    assert all(isinstance(leaf, int | float | str) for leaf in leaves(metrics))
    assert set(metrics["floors"]) == {"distance_ratio", "class_accuracy", "recall", "copies"}
    assert metrics["student"]["1"]["fd_infinite"] == read(world, "evaluate", "evaluation.json")["student"][0]["values"][
        "fd_infinite"]["value"]  # fmt: skip
    lines = (world.folder("evaluate") / "quality.csv").read_text().splitlines()
    assert lines[0].startswith("model,evaluations,fd_infinite,kid") and len(lines) == 1 + 2 + 8
    curve = (world.folder("evaluate") / "curves" / "heun.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in curve[1:]] == [["heun", "1"], ["heun", "3"]]
    picture = Image.open(world.folder("evaluate") / "grid.png")
    assert picture.width > 3 * 4 * 36 and np.asarray(picture).std() > 10


@pytest.mark.parametrize("stage, kept", [("baselines", 3), ("evaluate", 1)])
def test_what_a_kill_left_is_continued_and_ends_in_the_same_bytes(world, stage, kept):
    made = graph.BY_NAME[stage]
    first = world.context(stage, work=f"{stage}-killed")
    for unit in reversed(made.units(first)[-kept:]):  # another order, then a new start
        made.run_unit(first, unit)
    left = made.units(world.context(stage, work=f"{stage}-killed"))
    assert len(left) == len(made.units(world.context(stage, work=f"{stage}-untouched"))) - kept
    published = contents(world.folder(stage))
    again = world.context(stage, work=f"{stage}-killed")
    (again.out / "metrics.json").write_text("half a fi") if stage == "evaluate" else None
    world.run(stage, workers=2, work=f"{stage}-killed")
    assert contents(world.folder(stage)) == published
    done, total = world.listener.progress[-1]
    assert 0 < done <= total


def test_figures_under_another_protocol_are_refused(world):
    other = World(world.root, {"samples": 200})
    with pytest.raises(SettingsError, match="baselines were made with 150"):
        graph.BY_NAME["evaluate"].check(other.context("evaluate", work="other"))


@pytest.mark.parametrize("changed, message", [
    ({"solvers": ["ddimm"]}, "unknown solver 'ddimm'; did you mean 'ddim'"),
    ({"baseline_steps": [1], "guidance": 3.0}, "every step counts 2"),
])  # fmt: skip
def test_baselines_that_cannot_be_made_are_refused_before_any_work(world, changed, message):
    with pytest.raises(SettingsError, match=message):
        graph.BY_NAME["baselines"].check(World(world.root, changed).context("baselines", work="refused"))


@pytest.mark.parametrize("models, message", [
    ({"num_classes": 7}, "knows 7 classes, the images have 10"),
    ({"channels": 3}, r"shape \(3, 8, 8\), the data's are \(1, 8, 8\)"),
])  # fmt: skip
def test_a_teacher_that_does_not_fit_the_images_is_refused(world, tmp_path, models, message):
    other = World(tmp_path)
    for stage in ("shard", "classifier"):
        other.publish(stage, world.folder(stage))
    other.add_models(**models)
    with pytest.raises(SettingsError, match=message):
        graph.BY_NAME["baselines"].check(other.context("baselines"))


def test_a_student_that_draws_nan_is_named(world, tmp_path):
    broken = World(tmp_path)
    for stage in ("shard", "classifier", "baselines"):
        broken.publish(stage, world.folder(stage), world.context(stage, work="x").settings.model_dump(mode="json"))
    broken.add_models(broken=True)
    context = broken.context("evaluate")
    with pytest.raises(NonFinite, match="student: 100.0% of its samples with 1 step are NaN"):
        graph.BY_NAME["evaluate"].run_unit(context, "steps-1")
    assert graph.BY_NAME["evaluate"].units(context) == ["steps-1", "steps-2"]


def test_images_without_classes_are_measured_in_principal_components_and_in_given_features(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_EXTRACTORS", str(tmp_path / "extractors"))
    clip = put_clip(tmp_path / "extractors")
    pictures = tmp_path / "images"
    pictures.mkdir()
    source = np.random.default_rng(0)
    for i in range(220):
        Image.fromarray(source.integers(0, 255, (8, 8), dtype=np.uint8)).save(pictures / f"{i:03d}.png")
    (pictures / "metadata.csv").write_text("name,caption\n" + "".join(f"{i:03d}.png,noise {i}\n" for i in range(220)))
    world = World(tmp_path, {"samples": 64, "baseline_steps": [1, 2], "steps": [1], "classifier": {"features": 4},
                             "extractors": {"clip": clip}},
                  data={"source": "raw"}, images=pictures)  # fmt: skip
    world.run("shard")
    assert world.run("classifier")["features"] == "pca-4"
    world.add_models(num_classes=0)
    world.run("baselines")
    world.run("evaluate")
    document = read(world, "evaluate", "evaluation.json")
    assert "class_accuracy" not in document["student"][0]["values"] and "no classes" in document["notes"][0]
    assert "class" not in results_table.markdown(results_table.load(world.root / "data")).split("\n")[2]
    assert read(world, "evaluate", "metrics.json")["floors"]["class_accuracy"] is None
    for row in (document["student"][0], document["rows"][0], document["floor"]):
        entry = row["values"]["cmmd@clip"]
        protocol = document["protocols"][entry["protocol"]]
        assert protocol["features_digest"] == clip and protocol["resized"] == "32 x 32, bicubic"
        assert protocol["parameters"]["bandwidth"] == 10 and protocol["antialiased"] and "fd@clip" in row["values"]
        assert document["protocols"][row["values"]["fd"]["protocol"]]["features"] == "pca-4"
    (tmp_path / "extractors" / "clip" / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match="evaluate.extractors.clip: the hash of"):
        graph.BY_NAME["baselines"].check(world.context("baselines", work="other"))


def put_clip(folder: Path) -> str:
    """A tiny random CLIP where it is looked for; returns its hash."""
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from fewstep.metrics.extractors.extractor_loading import digest_of

    config = {"vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
                                "patch_size": 16, "intermediate_size": 16}, "projection_dim": 6}  # fmt: skip
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["vision_config"], projection_dim=6))
    (folder / "clip").mkdir(parents=True)
    (folder / "clip" / "config.json").write_text(json.dumps(config))
    save_file(tower.state_dict(), folder / "clip" / "model.safetensors")
    return digest_of(folder, "clip")


def printed(world: World, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(results_table.table(world.root))
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_and_says_what_is_there(world, width):
    lines = printed(world, width)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    models = [line.split()[0] for line in lines[2:] if line.strip()]
    assert models.count("student") == 2 and models.count("teacher") == 3 and "real" in models
    heun = [line.split() for line in lines if line.startswith("Heun")]
    assert heun[0][1] == "1" and heun[1][1:3] == ["2", "–"]
    assert any(line.startswith("In 1 step the student reaches") for line in lines)


def test_the_summary_in_markdown(world):
    text = results_table.markdown(results_table.load(world.root / "data"))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1 and "not an FID" in text
    with pytest.raises(NotAvailable, match="nothing was evaluated"):
        results_table.load(Path(world.root) / "nowhere")


def test_a_shortened_run_goes_through_the_same_code(world, tmp_path):
    short = World(tmp_path)
    for stage in ("shard", "classifier"):
        short.publish(stage, world.folder(stage))
    short.add_models()
    for stage in (BaselinesStage(), EvaluateStage()):
        context = short.context(stage.name)
        settings = stage.shortened(context.settings)
        if stage.name == "baselines":
            assert settings.samples == 64 and settings.baseline_steps == (4,)
        else:  # paired with the baselines' samples
            settings = settings.model_copy(update={"samples": 64, "batch": 32})
            assert settings.steps == (1,)
        context.settings = settings
        stage.check(context)
        for unit in stage.units(context):
            stage.run_unit(context, unit)
        result = stage.finish(context)
        assert result.samples == 64
        short.publish(stage.name, context.out, settings.model_dump(mode="json"))
    assert set(contents(short.folder("evaluate"))) == set(contents(world.folder("evaluate")))


def test_costs_are_measured_apart(world):
    cost = graph.BY_NAME["evaluate"].costs(world.context("evaluate"))
    assert set(cost["student"]) == {"1", "2"} and cost["student"]["1"]["images_per_second"] > 0
    assert graph.BY_NAME["baselines"].costs(world.context("baselines"))["teacher"]["latency_ms"] > 0
    kept = b"".join(contents(world.folder("evaluate")).values())
    assert b"latency" not in kept and b"per_second" not in kept

"""Every stage that asks a network computes on the GPU where there is one: each of them once on a made-up one, which
refuses to mix its tensors with the CPU's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fewstep.families.codec import Codec
from fewstep.families.encoded_set import EncodedSet
from fewstep.metrics.sample_set import collect
from fewstep.students.export import export_student
from fewstep.students.student import StudentSettings, make_student
from fewstep.teachers import load_teacher
from fewstep.util import at_once as limits
from fewstep.util.config import parse
from tasks.config.schema import Settings
from tasks.data.encoded_inputs import codec_of
from tasks.engine import graph
from tasks.evaluation.baseline_plan import plan
from tasks.evaluation.examination_setup import stage_examination
from tasks.evaluation.samplers import baseline_draw, ready_student, ready_teacher
from tasks.registry.gate import champion_test
from tasks.registry.packaged import sample_pictures
from tasks.stages import reference
from tests.fake_device import FakeCuda
from tests.fewstep.families.pipelines import KINDS
from tests.tasks.stages.evaluation_world import World
from tests.tasks.stages.test_encode_stage import CAPTIONS, captioned


@pytest.fixture(scope="module", params=["sd", "flux"])
def world(request, tmp_path_factory) -> World:
    """A teacher of texts beside captioned images, all made on the CPU but students: those are made of it."""
    root, kind = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    kind.save(root / "pipeline")
    made = World(root / "world", images=captioned(root / "images", 32, CAPTIONS, 240), teacher=root / "pipeline")
    sizes = {name: value for name, value in kind.arguments.items() if name in ("height", "width")}
    rest = {name: value for name, value in kind.arguments.items() if name not in sizes}
    made.settings = parse(Settings, {
        "data": {"source": "raw"}, "encode": {**sizes, **_known(rest)},
        "teacher": {"source": str(root / "pipeline"), "check": {"samples": 16, "steps": 2, "max_distance_ratio": 1e9}},
        "trajectories": {"count": 16, "steps": 2, "record_size": 8},
        "distill": {"images": 8, "batch": 4, "recipe": "kd"},
        "evaluate": {"samples": 48, "batch": 24, "steps": [1], "baseline_steps": [1], "solvers": ["ddim"],
                     "classifier": {"images": 64, "batch": 32, "features": 4}}}, "test")  # fmt: skip
    for stage in ("shard", "encode", "classifier", "teacher"):
        made.run(stage)
    return made


def _known(rest: dict) -> dict:
    own = {name: value for name, value in rest.items() if name == "max_sequence_length"}
    return {**own, "arguments": {name: value for name, value in rest.items() if name not in own}}


@pytest.fixture
def gpu(world, monkeypatch) -> FakeCuda:
    """A made-up GPU that the device function finds; entered where stages compute."""
    known = codec_of(world.outside["teacher"], EncodedSet(world.folder("encode"))).state_map
    monkeypatch.setattr(Codec, "_probed", lambda _codec: known)     # found from values, which a made-up GPU has not
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device=None: "made up")
    monkeypatch.setattr(limits, "BYTES", 3 * 1024 * 3 * 32 * 32)    # three images at once
    return FakeCuda()


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, str, int]]:
    """Of every call of a network's layers: the kind of layer, the device, and the number of samples."""
    found: list[tuple[str, str, int]] = []
    call = nn.Module.__call__

    def seen(module: nn.Module, *given, **named):
        tensors = [one for one in (*given, *named.values()) if isinstance(one, torch.Tensor)]
        if tensors:
            found.append((type(module).__name__, tensors[0].device.type, len(tensors[0]) if tensors[0].ndim else 1))
        return call(module, *given, **named)

    monkeypatch.setattr(nn.Module, "__call__", seen)
    return found


def devices(calls: list[tuple[str, str, int]], *kinds: str) -> set[str]:
    """Where the layers of some kinds were asked."""
    found = {device for name, device, _ in calls if name in kinds}
    assert found, f"none of {kinds} was asked"
    return found


def first_units(world: World, name: str, gpu: FakeCuda, calls: list, count: int = 1) -> None:
    """Runs units of a stage; what was asked before, to look at the teacher, does not count."""
    stage = graph.stage(name)
    with gpu:
        context = world.context(name, "gpu")
        stage.check(context)
        units = stage.units(context)[:count]
        calls.clear()
        for unit in units:
            stage.run_unit(context, unit)


def test_texts_and_images_are_encoded_on_the_gpu(world, gpu, calls):
    first_units(world, "encode", gpu, calls, 99)
    assert devices(calls, "Encoder", "CLIPEncoder", "T5Stack") == {"cuda"}


@pytest.mark.filterwarnings("ignore:invalid value encountered")     # components of zeros
def test_the_features_are_fitted_on_the_gpu_and_stored_from_the_cpu(world, gpu, calls, monkeypatch):
    monkeypatch.setattr(torch, "isfinite", lambda values: torch.ones(values.shape, dtype=torch.bool))
    monkeypatch.setattr(torch.Tensor, "backward", lambda _loss: None)   # a PyTorch without CUDA aborts there
    with torch.no_grad():
        first_units(world, "classifier", gpu, calls)
    assert devices(calls, "GroupNorm") == {"cuda"}
    calls.clear()
    with gpu:
        graph.stage("classifier").finish(world.context("classifier", "gpu"))
    assert devices(calls, "GroupNorm") == {"cuda"}


def test_the_teacher_is_asked_and_its_samples_decoded_on_the_gpu_a_few_at_once(world, gpu, calls):
    """What the stages reference, baselines and evaluate and the gate draw by."""
    with gpu:
        context = world.context("baselines", "gpu")
        teacher = ready_teacher(context)
        test = stage_examination(context, teacher.num_classes)
        baseline = plan(context.settings)[0]
        drawn = collect(test, baseline_draw(teacher, baseline, 0), lambda _count: None)
    assert drawn.images.shape == (48, 3, 32, 32) and drawn.seen.features.shape == (48, 4)
    assert devices(calls, "Decoder", "GroupNorm", type(teacher.network).__name__) == {"cuda"}
    assert {count for name, _, count in calls if name == "Decoder"} == {1, 3}   # one: for the shape of a sample


def test_a_reference_is_drawn_on_the_gpu(world, gpu, calls, monkeypatch):
    monkeypatch.setattr(reference, "_needed", lambda _context: True)
    first_units(world, "reference", gpu, calls)
    assert devices(calls, "Decoder") == {"cuda"} and {count for name, _, count in calls if name == "Decoder"} <= {1, 3}


@pytest.fixture(scope="module")
def student(world, tmp_path_factory) -> Path:
    """A copy of the teacher, as a version of the registry has it."""
    folder = tmp_path_factory.mktemp("student")
    export_student(make_student(load_teacher(world.folder("teacher")), StudentSettings()), folder,
                   teacher=world.folder("teacher"))  # fmt: skip
    return folder


def test_the_gate_examines_a_student_on_the_gpu(world, student, gpu, calls):
    with gpu:
        context = world.context("baselines", "gate")
        model = ready_student(student, EncodedSet(world.folder("encode")))
        seen, evaluations = champion_test._examined(
            stage_examination(context, model.denoiser.num_classes), model, SimpleNamespace(name="student/1"))
    assert len(seen.features) == 48 and evaluations == model.sampler.steps
    assert devices(calls, "Decoder", "GroupNorm", type(model.denoiser.network).__name__) == {"cuda"}


def test_sample_draws_and_decodes_on_the_gpu_a_few_at_once(world, student, gpu, calls, tmp_path):
    registry = SimpleNamespace(pipeline=lambda _version: student)
    version = SimpleNamespace(name="student/1")
    with gpu:
        sample_pictures.draw(registry, version, tmp_path / "drawn.png", count=7, prompts=CAPTIONS[:2])
    assert (tmp_path / "drawn.png").stat().st_size
    assert devices(calls, "Encoder", "Decoder", "CLIPEncoder", "T5Stack", "Transformer2DModel",
                   "FluxTransformerBlock") == {"cuda"}  # fmt: skip
    assert {count for name, _, count in calls if name == "Decoder"} == {1, 3}

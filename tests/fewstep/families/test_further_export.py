"""Students of further_pipelines.py leave as pipelines that sample what they sample, with nothing to be said, by a stock
scheduler and by steps of their own."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from fewstep.families.codec import Codec
from fewstep.families.recorded_conditions import table_of
from fewstep.students.export import export_student, load_student
from fewstep.students.student import make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from tests.fewstep.families.further_pipelines import FURTHER
from tests.fewstep.families.image_pipelines import picture
from tests.fewstep.families.test_family_export import sampled, states, trained
from tests.fewstep.families.test_lora_export import ADAPTED, outputs

CASES = {"ode": {"steps": 3}, "angle": {"steps": 2, "spacing": "angle"}}
PROMPT = "two blue cars on a road"


@pytest.fixture(scope="module", params=list(FURTHER))
def taught(request, tmp_path_factory) -> tuple[str, Any, Any]:
    """Name, folder, and the teacher that was loaded from it."""
    folder = tmp_path_factory.mktemp(request.param)
    FURTHER[request.param].save(folder)
    return request.param, folder, load_teacher(folder, arguments=FURTHER[request.param].arguments)


@pytest.mark.parametrize("case", CASES)
def test_the_exported_pipeline_samples_the_student_with_nothing_to_say(taught, tmp_path, monkeypatch, case):
    kind, folder, teacher = taught
    student = trained(make_student(teacher, StudentSettings(**CASES[case])))
    assert export_student(student, tmp_path, teacher=folder) == "pipeline"
    alone = diffusers.DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    if case == "ode":
        assert not alone.config.plan["rows"]
    images = teacher.family.images
    given = {} if images is None else images.of({name: picture(images.size, 0) for name in images.names}, 1)
    fresh: list[Tensor] = []
    seen, end, calls = states(alone, teacher.family.part, monkeypatch, fresh, prompt=[PROMPT], **given,
                              generator=torch.Generator().manual_seed(1))  # fmt: skip
    assert calls == len(seen) == student.sampler.steps and not fresh
    again, pipe = load_student(tmp_path), load_pipeline(inspect_teacher(tmp_path))
    shown = None if images is None else {name: [picture(images.size, 0)] for name in images.names}
    again.denoiser.take(table_of(pipe, again.denoiser.family, [PROMPT], images=shown))
    start = float(student.denoiser.process.initial(torch.ones(1).double(), student.start))
    own = sampled(again, seen[0] / start, torch.tensor([0]), fresh)
    size = float(own.abs().max())
    assert (own - end).abs().max() < 1e-4 * max(size, 1.0)
    assert torch.isfinite(Codec(pipe, again.denoiser.family).decode(own)).all()


@pytest.mark.parametrize("kind", ["lumina2", "z_image", "qwen_image"])
def test_adapters_are_loaded_by_the_stock_pipeline_bit_for_bit(tmp_path, kind):
    pipe = FURTHER[kind].save(tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher", arguments=FURTHER[kind].arguments)
    student = trained(make_student(teacher, ADAPTED))
    assert export_student(student, tmp_path / "student", "lora", tmp_path / "teacher") == "lora"
    wanted = outputs(student, pipe)
    base = type(pipe).from_pretrained(tmp_path / "teacher")
    part = student.denoiser.family.part
    student.denoiser.network = getattr(base, part).eval()
    assert not torch.equal(outputs(student, pipe), wanted)
    base.load_lora_weights(tmp_path / "student")
    student.denoiser.network = getattr(base, part).eval()
    assert torch.equal(outputs(student, pipe), wanted)


def test_adapters_are_merged_where_diffusers_loads_none_into_the_network(tmp_path):
    pipe = FURTHER["kandinsky3"].save(tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher", arguments=FURTHER["kandinsky3"].arguments)
    student = trained(make_student(teacher, ADAPTED))
    assert hasattr(pipe, "load_lora_weights")
    assert export_student(student, tmp_path / "student", "lora", tmp_path / "teacher") == "pipeline"
    assert torch.allclose(outputs(load_student(tmp_path / "student"), pipe), outputs(student, pipe), atol=1e-4)

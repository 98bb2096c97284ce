"""Adapters leave as the file that stock pipelines load, and compute there bit for bit what they did in training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from fewstep.diffusion.adapters import DiffusersAdapter
from fewstep.families.recorded_conditions import table_of
from fewstep.networks.lora_files import LORA_FILE
from fewstep.students.export import export_student, load_student
from fewstep.students.export_form import require_form
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import GuidanceInput, LoraSettings, SizeSettings, StudentSettings
from fewstep.teachers import load_teacher
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.families.test_family_export import PROMPTS, trained

LOADED = ("sd", "sdxl", "sd3", "flux", "sana", "wan", "ltx", "cogvideox")
ADAPTED = StudentSettings(steps=2, lora=LoraSettings(rank=2))


def taught(kind: str, folder: Path) -> tuple[Any, Any]:
    return KINDS[kind].save(folder), load_teacher(folder, arguments=KINDS[kind].arguments)


def outputs(student: Student, pipe: Any) -> torch.Tensor:
    if student.denoiser.table is None and student.denoiser.family.fields:
        student.denoiser.take(table_of(pipe, student.denoiser.family, PROMPTS))
    for value in student.denoiser.network.requires_grad_(False).parameters():
        value.data = value.data.clone()  # a product's last bits depend on where its factors lie, and on this flag
    x = torch.randn((2, *student.denoiser.sample_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return student.denoiser.predict(x, student.start, torch.tensor([0, 1])).output


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("kind", LOADED)
def test_the_file_is_loaded_by_the_stock_pipeline_and_by_us_bit_for_bit(tmp_path, kind, alpha):
    pipe, teacher = taught(kind, tmp_path / "teacher")
    settings = ADAPTED.model_copy(update={"lora": LoraSettings(rank=2, alpha=alpha)})
    student = trained(make_student(teacher, settings))
    assert export_student(student, tmp_path / "student", "lora", tmp_path / "teacher") == "lora"
    wanted = outputs(student, pipe)
    base = type(pipe).from_pretrained(tmp_path / "teacher")
    network = student.denoiser.network
    family = student.denoiser.family
    student.denoiser.network = getattr(base, family.part).eval()
    assert not torch.equal(outputs(student, pipe), wanted)
    base.load_lora_weights(tmp_path / "student")
    student.denoiser.network = getattr(base, family.part).eval()
    assert torch.equal(outputs(student, pipe), wanted)
    student.denoiser.network = network
    assert torch.equal(outputs(load_student(tmp_path / "student"), pipe), wanted)
    place = Path(family.part) / "diffusion_pytorch_model.safetensors"
    assert os.path.samefile(tmp_path / "teacher" / place, tmp_path / "student" / place)
    alone = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "student", trust_remote_code=True)
    alone.set_progress_bar_config(disable=True)
    for _ in range(2):  # the adapters are loaded once
        alone("a red apple", output_type="latent")
    student.denoiser.network = getattr(alone, family.part).eval()
    assert torch.equal(outputs(student, pipe), wanted)


@pytest.mark.parametrize("kind", ["pixart", "dit", "stable_audio"])
def test_adapters_are_merged_where_diffusers_loads_none(tmp_path, kind):
    pipe, teacher = taught(kind, tmp_path / "teacher")
    student = trained(make_student(teacher, ADAPTED))
    assert export_student(student, tmp_path / "student", "lora", tmp_path / "teacher") == "pipeline"
    assert not (tmp_path / "student" / LORA_FILE).exists()
    again = load_student(tmp_path / "student")
    assert torch.allclose(outputs(again, pipe), outputs(student, pipe), atol=1e-4)


def test_the_same_adapters_are_the_same_bytes(tmp_path):
    pipe, teacher = taught("sd", tmp_path / "teacher")
    student = trained(make_student(teacher, ADAPTED))
    for name in "ab":
        export_student(student, tmp_path / name, "lora", tmp_path / "teacher")
    export_student(load_student(tmp_path / "a"), tmp_path / "c", "lora", tmp_path / "teacher")
    a, b, c = ({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
               for name in "abc")  # fmt: skip
    assert a == b == c and LORA_FILE in a


def test_adapters_beside_other_weights_are_refused(tmp_path):
    _, teacher = taught("sd", tmp_path / "teacher")
    student = make_student(teacher, ADAPTED)
    with torch.no_grad():
        student.denoiser.network.conv_in.base_layer.bias.add_(1)
    with pytest.raises(SettingsError, match=r"conv_in\.bias is not what"):
        export_student(student, tmp_path / "student", "lora", tmp_path / "teacher")
    with pytest.raises(SettingsError, match="only adapters"):
        export_student(make_student(teacher, StudentSettings()), tmp_path / "other", "lora", tmp_path / "teacher")
    with pytest.raises(SettingsError, match="beside its teacher's folder"):
        export_student(student, tmp_path / "third")
    assert not any((tmp_path / name).exists() for name in ("student", "other", "third"))


def test_a_folder_of_adapters_is_no_teacher_and_its_file_is_checked(tmp_path):
    _, teacher = taught("dit", tmp_path / "dit")
    _, teacher = taught("sd", tmp_path / "teacher")
    export_student(make_student(teacher, ADAPTED), tmp_path / "student", "lora", tmp_path / "teacher")
    with pytest.raises(SettingsError, match="which are no teacher"):
        load_teacher(tmp_path / "student")
    (tmp_path / "student" / LORA_FILE).write_bytes(b"x")
    with pytest.raises(SettingsError, match=LORA_FILE):
        load_student(tmp_path / "student")


@pytest.mark.parametrize(("change", "told"), [
    ({"lora": None}, "trains none"),
    ({"second_time": True}, "second_time"),
    ({"guidance_input": GuidanceInput()}, "guidance_input"),
    ({"negative_time": True}, "negative_time"),
    ({"init": "random"}, "init: random"),
    ({"size": SizeSettings(width=0.5)}, "size"),
    ({"guide": SizeSettings(width=0.5)}, "guide"),
])  # fmt: skip
def test_what_is_no_low_rank_matrix_is_refused_by_its_settings(change, told):
    require_form("lora", ADAPTED)
    with pytest.raises(SettingsError, match=told):
        require_form("lora", ADAPTED.model_copy(update=change))
    for form in ("pipeline", "network"):
        require_form(form, ADAPTED.model_copy(update=change))


def test_the_network_alone_tells_what_it_goes_with(tmp_path):
    pipe, teacher = taught("sdxl", tmp_path / "teacher")
    student = trained(make_student(teacher, StudentSettings(steps=2)))
    assert export_student(student, tmp_path / "student", "network", tmp_path / "teacher") == "network"
    found = {str(path.relative_to(tmp_path / "student")) for path in (tmp_path / "student").rglob("*.*")}
    assert found == {
        *("fewstep.json", "model_index.json", "pipeline.py", "scheduler/scheduler_config.json", "unet/config.json"),
        "unet/diffusion_pytorch_model.safetensors",
    }
    again = load_student(tmp_path / "student")
    assert isinstance(again.denoiser.adapter, DiffusersAdapter)
    assert torch.equal(outputs(again, pipe), outputs(student, pipe))
    rest = json.loads((tmp_path / "student" / "fewstep.json").read_text())["rest"]
    assert set(rest) == {"vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
    assert all(len(digest) == 64 for digest in rest.values()) and rest["text_encoder"] != rest["text_encoder_2"]
    parts = {name: getattr(pipe, name) for name in rest}
    whole = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "student", trust_remote_code=True, **parts)
    assert len(whole("a red apple", output_type="np").images) == 1

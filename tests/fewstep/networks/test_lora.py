"""Adapters: no effect at the start, trained and stored alone, merged into layers of the original kind."""

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel

from fewstep.networks.folding import fold_additions
from fewstep.objectives.common.derivatives import jvp
from fewstep.recipes import parse_recipe
from fewstep.students.export import export_student, load_student
from fewstep.students.student import make_student
from fewstep.students.student_settings import GuidanceInput, LoraSettings, StudentSettings
from fewstep.training.saving.checkpoints import Checkpoints
from tests.fewstep.networks.untrained import batch, learnt, origin
from tests.fewstep.training.small import BATCH, finish, run, teacher

LORA = StudentSettings(lora=LoraSettings(rank=2, alpha=4.0))


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_adapters_start_without_effect_reach_every_layer_and_hold_the_rest(kind):
    before = torch.get_rng_state()
    student, plain = make_student(origin(kind), LORA, 1).eval().denoiser, origin(kind)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(student.predict(*batch(plain)).output, plain.predict(*batch(plain)).output)
    free = {name for name, _ in student.named_parameters()} - student.held
    layers = [m for m in plain.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(free) == 2 * len(layers) and all("lora" in name for name in free)
    again, other = (make_student(origin(kind), LORA, seed).denoiser.state_dict() for seed in (1, 2))
    name = next(name for name in sorted(free) if "lora_A" in name)
    assert torch.equal(again[name], student.state_dict()[name]) and not torch.equal(again[name], other[name])


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_merging_gives_back_the_original_layers_and_the_same_function(kind):
    settings = LORA.model_copy(update={"second_time": True, "guidance_input": GuidanceInput()})
    for one in (learnt(origin(kind), LORA).denoiser, learnt(origin(kind), settings).denoiser):
        merged, plain = fold_additions(one), origin(kind)
        assert {n: v.shape for n, v in merged.state_dict().items()} == {
            n: v.shape for n, v in plain.state_dict().items()
        } and not merged.held
        expected = one.predict(*batch(plain)).output
        assert torch.allclose(merged.predict(*batch(plain)).output, expected, atol=2e-5)
        assert not torch.allclose(plain.predict(*batch(plain)).output, expected, atol=1e-3)
    free = {name for name, _ in one.named_parameters()} - one.held
    assert any("second" in name for name in free) and any("scale" in name for name in free)


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_adapters_have_forward_derivatives(kind):
    student = learnt(origin(kind), LORA).denoiser.double()
    x, t, labels = batch(student)
    x = x.double()
    _, derivative = jvp(lambda x: student.predict(x, t, labels).output, (x,), (torch.ones_like(x),))
    step = 1e-6
    ahead, behind = (student.predict(x + sign * step, t, labels).output for sign in (1, -1))
    assert torch.allclose(derivative, (ahead - behind) / (2 * step), atol=1e-5)


def test_an_exported_student_with_adapters_is_a_plain_pipeline(tmp_path):
    student = learnt(origin("unet"), LORA)
    export_student(student, tmp_path)
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.unet) is UNet2DModel
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = student.sample(noise, condition=torch.arange(4) % 3)
    assert torch.allclose(load_student(tmp_path).sample(noise, condition=torch.arange(4) % 3), expected, atol=2e-5)


def recipe():
    lora = {"rank": 2}
    terms = [{"term": "distribution_matching", "fake_score": {"lora": lora}}]
    data = {"name": "adapted", "student": {"lora": lora}, "training": {"batch": BATCH, "precision": "float32"}}
    return parse_recipe(data | {"rounds": [{"turns": {"fake_score": 1, "student": 1}, "terms": terms}]}, "adapted")


def test_only_adapters_are_trained_and_stored_for_student_and_role_and_a_run_resumes(tmp_path):
    origin = {name: value.clone() for name, value in teacher().state_dict().items()}
    job = run(recipe(), tmp_path / "whole")
    weights = finish(job)
    held = job.student_after(0).denoiser.held
    for name in held:
        assert torch.equal(weights[name], origin[name.replace(".base_layer", "")]), name
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)
    found = Checkpoints(job.folder_of(0) / "checkpoints").latest()
    assert {name.split("/")[1] for name in found.tensors if name.startswith("weights/")} == {"student", "fake_score"}
    assert all("lora" in name for name in found.tensors)
    newest = max((tmp_path / "whole").rglob("step-*.json"))
    newest.unlink()
    newest.with_suffix(".safetensors").unlink()
    again = finish(run(recipe(), tmp_path / "whole"))
    assert all(torch.equal(again[name], value) for name, value in weights.items())

"""A guide: without effect at the start, trained alone, exported beside the base as a part of the pipeline."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.folding import fold_additions
from fewstep.recipes import load_recipe
from fewstep.students.export import export_student, is_stock, load_student
from fewstep.students.student import make_student
from fewstep.students.student_settings import GuidanceInput, SizeSettings, StudentSettings
from fewstep.training.saving.checkpoints import Checkpoints
from fewstep.util.errors import SettingsError
from tests.fewstep.networks.untrained import VP, batch, learnt, origin
from tests.fewstep.training.small import finish, run, teacher, tiny

GUIDED = StudentSettings(
    guide=SizeSettings(width=0.5, middle=False), guidance_input=GuidanceInput(low=1.0, high=5.0, sample=2.0)
)


@pytest.mark.parametrize("kind", ["mlp", "unet", "flow"])
def test_a_guide_starts_without_effect_and_leaves_the_base_alone(kind):
    plain, student = origin(kind), make_student(origin(kind), GUIDED).eval().denoiser
    expected = plain.predict(*batch(plain)).output
    assert torch.allclose(student.predict(*batch(plain)).output, expected, atol=1e-6)
    assert torch.allclose(student.predict(*batch(plain), scale=4.0).output, expected, atol=1e-6)
    free = {name for name, _ in student.named_parameters()} - student.held
    assert free and all(name.startswith("network.guide.") for name in free)
    count = sum(value.numel() for name, value in student.named_parameters() if name in free)
    assert count < sum(value.numel() for value in plain.parameters())
    found = learnt(origin(kind), GUIDED).denoiser
    one, other = (found.predict(*batch(plain), scale=scale).output for scale in (1.0, 4.0))
    assert not torch.allclose(one, other, atol=1e-4) and not torch.allclose(one, expected, atol=1e-4)
    folded = fold_additions(found).predict(*batch(plain)).output
    assert torch.allclose(folded, found.predict(*batch(plain)).output, atol=1e-5)


@pytest.mark.parametrize("kind", ["unet", "flow"])
def test_it_is_exported_beside_the_base_and_comes_back(tmp_path, kind):
    student = learnt(origin(kind), GUIDED.model_copy(update={"steps": 2}))
    export_student(student, tmp_path)
    assert not is_stock(student)
    assert json.loads((tmp_path / "model_index.json").read_text())["guide"] == ["diffusers", "UNet2DModel"]
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.unet) is type(pipe.guide) is UNet2DModel
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(4) % 3
    expected = student.sample(noise, condition=labels)
    assert torch.allclose(pipe(4, class_labels=labels, noise=noise, output_type="raw").images, expected, atol=2e-5)
    again = load_student(tmp_path)
    assert torch.allclose(again.sample(noise, condition=labels), expected, atol=2e-5)
    export_student(again, tmp_path / "again")
    assert (tmp_path / "again/guide/config.json").read_bytes() == (tmp_path / "guide/config.json").read_bytes()
    (tmp_path / "guide/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(SettingsError, match="guide"):
        load_student(tmp_path)


def test_only_the_guide_is_trained_and_stored(tmp_path):
    base = {f"network.base.{n}": v.clone() for n, v in teacher().network.state_dict().items() if "conv_in" not in n}
    recipe = tiny("plug-and-play", steps=2)
    job = run(recipe, tmp_path)
    weights = finish(job)
    assert all(torch.equal(weights[name], value) for name, value in base.items())
    assert weights["network.guide.conv_out.weight"].any()
    found = Checkpoints(job.folder_of(0) / "checkpoints").latest()
    assert all("guide" in name for name in found.tensors)


def test_what_takes_no_guide_is_refused():
    with pytest.raises(SettingsError, match="cannot be made smaller|takes no guide"):
        make_student(Denoiser(torch.nn.Linear(2, 2), VP, "sample", (2,), adapter=Angle()), GUIDED)
    assert load_recipe("plug-and-play").student.guide.width < 1

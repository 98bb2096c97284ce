"""Further inputs: the network starts as it was, follows them, and folds back into one of the original kind."""

import copy

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs
from fewstep.networks.extra_inputs import add_inputs
from fewstep.networks.folding import fold_additions
from fewstep.objectives.common.derivatives import jvp
from fewstep.students.export import export_student, load_student
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import GuidanceInput, StudentSettings
from fewstep.util.errors import SettingsError
from tests.fewstep.networks.untrained import KINDS, VP, learnt, origin

BOTH = StudentSettings(second_time=True, guidance_input=GuidanceInput(low=1.0, high=5.0, sample=2.5), sampler="renoise")


def batch(denoiser: Denoiser, n: int = 4):
    """x, t and labels, and for the further inputs a time below t and a scale."""
    source = torch.Generator().manual_seed(0)
    process = denoiser.process
    t = process.t_min + (process.t_max - process.t_min) * torch.rand(n, generator=source, dtype=torch.float64)
    second = process.t_min + (t - process.t_min) * torch.rand(n, generator=source, dtype=torch.float64)
    labels = torch.arange(n) % 3 if denoiser.num_classes else None
    return torch.randn(n, *denoiser.sample_shape, generator=source), t, labels, second, torch.linspace(1, 5, n)


def disturbed(kind: str, settings: StudentSettings = BOTH) -> Student:
    """A student whose new embeddings have learnt something."""
    return learnt(origin(kind), settings, lambda name: "second." in name or "scale." in name, 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_with_further_inputs_starts_as_its_teacher_bit_for_bit(kind):
    teacher = origin(kind)
    student = make_student(teacher, BOTH).eval().denoiser
    x, t, labels, second, scale = batch(teacher)
    expected = teacher.predict(x, t, labels).output
    assert torch.equal(student.predict(x, t, labels).output, expected)
    assert torch.equal(student.predict(x, t, labels, second=second, scale=scale).output, expected)
    assert student.default_scale == 2.5 and not teacher.inputs


@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_them_and_without_them_takes_the_clean_end_and_the_scale_of_sampling(kind):
    student = disturbed(kind).denoiser
    x, t, labels, second, scale = batch(student)
    plain = student.predict(x, t, labels).output
    assert torch.equal(plain, student.predict(x, t, labels, second=student.process.t_min, scale=2.5).output)
    assert not torch.allclose(plain, student.predict(x, t, labels, second=second).output, atol=1e-4)
    assert not torch.allclose(plain, student.predict(x, t, labels, scale=scale).output, atol=1e-4)
    if labels is not None:  # guidance doubles every input
        given = student.predict(x, t, labels, second=second, scale=scale).output
        nothing = student.predict(x, t, torch.full_like(labels, 3), second=second, scale=scale).output
        guided = student.predict(x, t, labels, 3.0, second=second, scale=scale).output
        assert torch.allclose(guided, nothing + 3 * (given - nothing), atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "unet", "flow"])
def test_its_derivative_in_each_input_is_that_of_finite_differences(kind):
    student = disturbed(kind).denoiser.double()
    x, t, labels, second, scale = batch(student)
    x = x.double()
    directions = (torch.ones_like(x), torch.full_like(t, 0.7), torch.full_like(second, -0.4))

    def output(x, t, second):
        return student.predict(x, t, labels, second=second, scale=scale).output

    for only in range(3):
        along = tuple(d if k == only else torch.zeros_like(d) for k, d in enumerate(directions))
        value, derivative = jvp(output, (x, t, second), along)
        coarse = kind != "mlp" and only == 1  # diffusers computes its embedding of the time in float32
        step, tolerance = (1e-4, 0.03) if coarse else (1e-6, 1e-4)
        ahead = output(*(v + step * d for v, d in zip((x, t, second), along, strict=True)))
        behind = output(*(v - step * d for v, d in zip((x, t, second), along, strict=True)))
        difference = (ahead - behind) / (2 * step)
        assert torch.allclose(value, output(x, t, second)) and derivative.abs().max() > 1e-4
        assert (derivative - difference).norm() < tolerance * difference.norm(), only


@pytest.mark.parametrize("kind", KINDS)
def test_folding_gives_back_a_network_of_the_original_kind(kind):
    student, plain = disturbed(kind).denoiser, origin(kind)
    folded = fold_additions(student)
    assert not folded.inputs and {n: v.shape for n, v in folded.state_dict().items()} == {
        n: v.shape for n, v in plain.state_dict().items()
    }
    x, t, labels, *_ = batch(student)
    assert torch.allclose(folded.predict(x, t, labels).output, student.predict(x, t, labels).output, atol=1e-5)
    assert not torch.allclose(folded.predict(x, t, labels).output, plain.predict(x, t, labels).output, atol=1e-4)
    assert fold_additions(plain) is plain


@pytest.mark.parametrize("kind", ["unet", "flow", "plain"])
def test_it_exports_as_a_plain_pipeline_that_samples_as_it_does(tmp_path, kind):
    student = disturbed(kind, BOTH.model_copy(update={"steps": 2}))
    export_student(student, tmp_path)
    pipe = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe.unet) is UNet2DModel
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(4) % 3 if student.denoiser.num_classes else None
    expected = student.sample(noise, condition=labels, seed=7)
    raw = pipe(4, class_labels=labels, noise=noise, seed=7, output_type="raw").images
    assert torch.allclose(raw, expected, atol=2e-5)
    assert torch.allclose(load_student(tmp_path).sample(noise, condition=labels, seed=7), expected, atol=2e-5)
    assert student.denoiser.inputs  # the student itself stays as it was


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_brings_them_back(kind):
    student = disturbed(kind).denoiser
    described = student.describe()
    again = add_inputs(origin(kind), ExtraInputs.from_dict(described["inputs"]))
    again = Denoiser.described(described, again.network)
    again.load_state_dict(student.state_dict())
    x, t, labels, second, scale = batch(student)
    expected = student.predict(x, t, labels, second=second, scale=scale).output
    assert torch.equal(again.predict(x, t, labels, second=second, scale=scale).output, expected)
    assert "inputs" not in origin(kind).describe()


def test_a_network_that_has_them_keeps_them_and_others_are_refused():
    student = disturbed("mlp").denoiser
    again = make_student(student, BOTH).eval().denoiser
    x, t, labels, second, scale = batch(student)
    expected = student.predict(x, t, labels, second=second, scale=scale).output
    assert torch.equal(again.predict(x, t, labels, second=second, scale=scale).output, expected)
    with pytest.raises(SettingsError, match="already has further inputs"):
        make_student(copy.deepcopy(student), StudentSettings(second_time=True))
    with pytest.raises(SettingsError, match="takes no second time"):
        origin("unet").predict(x, t, labels, second=0.1)
    with pytest.raises(SettingsError, match="takes no scale"):
        make_student(origin("unet"), StudentSettings(second_time=True)).denoiser.predict(x, t, labels, scale=2.0)
    with pytest.raises(SettingsError, match="cannot be given a second time"):
        make_student(Denoiser(torch.nn.Linear(2, 2), VP, "sample", (2,), adapter=Angle()), BOTH)

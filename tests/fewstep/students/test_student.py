"""Students: what they copy, where they start, how they sample."""

import pytest
import torch

from fewstep.diffusion.conditions import require_condition
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.diffusion.randomness import noise as keyed_noise
from fewstep.networks.unet_mlp import new_unet
from fewstep.students.sampler_settings import SamplerSettings
from fewstep.students.student import Student, make_student
from fewstep.students.student_settings import StudentSettings
from fewstep.teachers import GaussianMixture
from fewstep.training.roles.fresh_networks import fresh_network
from fewstep.util.config import parse
from fewstep.util.errors import SettingsError

VP, LINEAR = VariancePreserving.cosine(), VariancePreserving.scheduled("linear")


def teacher(process=VP, kind="v_prediction") -> Denoiser:
    return Denoiser(new_unet(8, 1, 3, (8, 16)), process, kind, (1, 8, 8), 3, 3).requires_grad_(False).eval()


def batch(n: int = 4):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


def exact(process, k: int = 8) -> GaussianMixture:
    means = torch.randn(k, 2, generator=torch.Generator().manual_seed(0))
    return GaussianMixture(means, 0.2, process=process)


def test_a_copy_is_the_teacher_trainable_and_apart():
    origin = teacher()
    student = make_student(origin, StudentSettings())
    x, labels = batch()
    student.eval()
    with torch.no_grad():
        assert torch.equal(student.denoiser.x0(x, 1.0, labels), origin.x0(x, 1.0, labels))
        next(student.denoiser.network.parameters()).add_(1.0)
        assert not torch.equal(student.denoiser.x0(x, 1.0, labels), origin.x0(x, 1.0, labels))
    assert all(p.requires_grad for p in student.parameters())
    assert not any(p.requires_grad for p in origin.parameters())


def test_fresh_weights_are_keyed_by_the_seed():
    before = torch.get_rng_state()
    weights = [
        torch.cat([p.flatten() for p in make_student(teacher(), StudentSettings(init="random"), seed).parameters()])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_closed_form_has_no_weights_to_copy():
    with pytest.raises(SettingsError, match="GaussianMixture has no weights"):
        make_student(exact(VP), StudentSettings())


@pytest.mark.parametrize("process", [VP, LINEAR, Flow(), EDM()], ids=lambda process: process.kind)
class TestOdeStudents:
    def test_one_step_is_the_prediction_at_pure_noise(self, process):
        origin, (noise, labels) = exact(process), (torch.randn(9, 2), torch.arange(9) % 8)
        student = Student(origin)
        expected = origin.x0(process.initial(noise), process.t_max, labels)
        assert torch.equal(student.sample(noise, condition=labels), expected)

    def test_many_steps_follow_the_exact_flow(self, process):
        origin = exact(process)
        noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        truth = origin.flow(process.initial(noise), process.t_max, process.t_min, steps=128)
        student = Student(origin, SamplerSettings(steps=2))
        errors = [(student.sample(noise, steps) - truth).square().mean().sqrt() for steps in (8, 32, 128)]
        assert errors[0] > 2 * errors[1] > 4 * errors[2]

    def test_times_may_be_given(self, process):
        noise = torch.randn(5, 2)
        grid = process.grid(3)
        student = Student(exact(process), SamplerSettings(steps=3, times=tuple(grid.tolist())))
        assert torch.equal(student.sample(noise), Student(exact(process), SamplerSettings(steps=3)).sample(noise))
        middle = float(grid[1])
        late = Student(exact(process), SamplerSettings(steps=2, times=(middle, middle / 2)))
        assert late.start == middle and len(late.times()) == 2 and len(late.times(4)) == 4


@pytest.mark.parametrize("process", [VP, Flow(), EDM()], ids=lambda process: process.kind)
def test_renoising_adds_keyed_noise_at_the_next_time(process):
    origin, noise = exact(process), torch.randn(6, 2, generator=torch.Generator().manual_seed(2))
    student = Student(origin, SamplerSettings(kind="renoise", steps=2))
    times = process.grid(2)
    x0 = origin.x0(process.initial(noise), times[0])
    fresh = keyed_noise(5, "student-sampling/0", range(6), (2,))
    expected = origin.x0(process.add_noise(x0, fresh, times[1]), times[1])
    found = student.sample(noise, seed=5)
    assert torch.equal(found, expected)
    assert not torch.equal(found, student.sample(noise, seed=6))
    part = student.sample(noise[2:4], seed=5, indices=[2, 3])
    assert torch.allclose(part, found[2:4], atol=1e-6)


def test_students_that_predict_epsilon_start_where_x0_is_well_conditioned():
    for process in (VP, LINEAR):
        student = make_student(teacher(process, "epsilon"), StudentSettings(steps=4))
        assert process.alpha(torch.tensor(student.start, dtype=torch.float64)) >= 0.02
        assert student.start > 0.8 and student.sampler.start == student.start
        after = student.start * (process.timesteps - 1) + 1
        assert process.alpha(torch.tensor(after / (process.timesteps - 1), dtype=torch.float64)) < 0.02
        noise, _ = batch()
        assert torch.equal(student.initial(noise), noise)
    assert make_student(teacher(VP, "v_prediction"), StudentSettings()).start == 1.0


@pytest.mark.parametrize("process, kind", [(VP, "v_prediction"), (Flow(), "flow_prediction"), (EDM(), "sample")])
def test_sampling_may_start_at_less_noise(process, kind):
    student = make_student(teacher(process, kind), StudentSettings(steps=3, max_noise_ratio=10.0))
    t = torch.tensor(student.start, dtype=torch.float64)
    ratio = float(process.sigma(t) / process.alpha(t))
    assert 9.5 < ratio <= 10.0001
    noise, labels = batch()
    assert torch.isfinite(student.sample(noise, condition=labels)).all()


def test_sampling_leaves_the_global_generator_and_gradients_alone():
    student = make_student(teacher(), StudentSettings(steps=2, sampler="renoise"))
    noise, labels = batch()
    before = torch.get_rng_state()
    assert not student.sample(noise, condition=labels).requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_times_that_do_not_fit_are_refused():
    for data, words in (
        ({"steps": 2, "times": [0.5]}, "1 entries for 2 steps"),
        ({"steps": 2, "times": [0.5, 0.7]}, "decrease"),
        ({"steps": 1, "times": [0.5], "start": 0.9}, "not both"),
        ({"steps": 0}, "steps"),
        ({"kind": "sde"}, "kind"),
    ):
        with pytest.raises(SettingsError, match=words):
            parse(SamplerSettings, data, "fewstep.json")
    with pytest.raises(SettingsError, match="beyond"):
        Student(exact(VP), SamplerSettings(steps=1, times=(1.5,)))


def test_a_sampling_refuses_labels_and_noise_that_do_not_fit():
    origin = exact(VP)
    noise, labels = torch.randn(3, 2), torch.tensor([0, 7, 8])
    for student in (Student(origin), Student(fresh_network(origin, 0))):
        assert student.sample(noise, condition=labels).shape == (3, 2)
        for none in (None, labels[:0]):
            assert student.sample(noise[:0], condition=none).shape == (0, 2)
        for odd, what in ((labels + 1, "label 9"), (labels - 1, "label -1"), (labels.float(), "torch.float32"),
                          ([0, 1, 2], "a list"), (3, "a int"), (labels[:2], r"shape \(2,\)")):  # fmt: skip
            with pytest.raises(SettingsError, match=rf"\(3,\) of class labels, 0 … 7 or 8 for no class; got {what}"):
                student.sample(noise, condition=odd)
        with pytest.raises(SettingsError, match=r"of shape \(N, 2\), got \(3, 5\)"):
            student.sample(torch.randn(3, 5))


def test_labels_on_a_device_are_looked_at_once_a_sampling_and_in_no_training_step():
    odd = _OnDevice(torch.tensor([9]))
    with pytest.raises(SettingsError, match="label 9"):
        require_condition(odd, 1, 3, None)
    require_condition(odd, 1, 3, None, wait=False)


class _OnDevice(torch.Tensor):
    """Labels that say they are elsewhere."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_subclass(cls, values)

    @property
    def device(self):
        return torch.device("cuda")

"""Output matching, features and annealed reflow: zero where they should be, the guided prediction as the optimum."""

import copy
from dataclasses import dataclass

import pytest
import torch

from fewstep.diffusion.adapters import Adapter, Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.networks.initial_weights import build
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.objectives.common.distances import high_frequency_error
from fewstep.objectives.features.loss import feature_error
from fewstep.objectives.features.settings import FeaturesSettings
from fewstep.objectives.flow_matching.loss import annealed
from fewstep.objectives.flow_matching.settings import FlowMatchingSettings
from fewstep.objectives.output_matching.settings import OutputMatchingSettings
from fewstep.objectives.registry import build as build_term
from fewstep.objectives.term_settings import TEACHER_NETWORK
from fewstep.students.student import make_student
from fewstep.students.student_settings import GuidanceInput, SizeSettings, StudentSettings
from fewstep.teachers import GaussianMixture
from fewstep.training.step.batches import ExactData, Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup
from fewstep.util.errors import SettingsError
from tests.fewstep.objectives.gaussian import IDS, PROCESSES, Disturbed, Pairs, gradients, make_step
from tests.fewstep.objectives.gaussian import student as formula_student

VP = VariancePreserving.cosine()


def pair(process) -> GaussianMixture:
    """Two overlapping Gaussians, so that guidance does something everywhere."""
    return GaussianMixture([[0.6, 0.0], [-0.6, 0.3]], [0.5, 0.7], process=process)


@dataclass(frozen=True)
class Guided(Adapter):
    """What a network puts out that is the guided teacher: a scale of its own, or the one it is given."""

    teacher: GaussianMixture
    scale: float | tuple | None

    def __call__(self, network, process, x, t, labels):
        scale = labels.scale if self.scale is None else self.scale
        labels = labels if self.scale is not None else labels.labels
        return network(self.teacher.predict(x, t, labels, scale).output)


def view(student, teacher, n=256, k=0, **networks) -> Step:
    draws = Draws(0, 0, k, n, torch.device("cpu"))
    everyone = {"student": student, "teacher": teacher, **networks}
    return Step(StepSetup(everyone, [teacher.process.t_max], Sources(data=ExactData(teacher))), "student", draws)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_its_optimum_is_the_guided_prediction_in_one_pass(process):
    teacher = pair(process)
    term = build_term(OutputMatchingSettings(term="output_matching", guidance=2.5))
    for scale, least in ((2.5, 0.0), (1.0, 1e-3)):
        student = Denoiser(Disturbed(), process, "v_prediction", (2,), 2, 2, Guided(teacher, scale))
        loss = term.loss(view(student, teacher))[0]
        assert loss <= 1e-9 if not least else loss > least
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, student.network.parameters())])
        assert gradient.abs().max() < 1e-4 if not least else gradient.abs().max() > 1e-3


def test_its_optimum_guides_each_condition_by_its_own_scale():
    teacher = GaussianMixture([[0.6, 0.0], [-0.6, 0.3], [0.0, -0.8]], [0.5, 0.7, 0.4], groups=[(0, 1)])
    term = build_term(OutputMatchingSettings(term="output_matching", guidance=[1.5, 3.0]))
    for scales, exact in (((1.5, 3.0), True), (1.5, False), (3.0, False), ((3.0, 1.5), False)):
        student = Denoiser(Disturbed(), VP, "v_prediction", (2,), 3, 3, Guided(teacher, scales), [(0, 1)])
        assert bool(term.loss(view(student, teacher))[0] <= 1e-9) is exact


def test_a_student_with_the_scale_as_an_input_learns_every_scale_at_once():
    teacher = pair(VP)
    term = build_term(OutputMatchingSettings(term="output_matching", guidance="input"))
    scales = StudentSettings(guidance_input=GuidanceInput(low=1.0, high=5.0, sample=2.0))
    student = Denoiser(Disturbed(), VP, "v_prediction", (2,), 2, 2, Guided(teacher, None))
    student.inputs = make_student(mlp(), scales).denoiser.inputs
    step = view(student, teacher)
    assert step.batch.scale.min() < 1.5 and step.batch.scale.max() > 4.5
    assert term.loss(step)[0] <= 1e-9
    with pytest.raises(SettingsError, match="guidance_input"):
        term.loss(view(mlp(), teacher))


def mlp(width: int = 16, labels: int = 3) -> Denoiser:
    network = build(lambda: ResidualMLP((2,), labels, width, 3))
    return Denoiser(network, VP, "v_prediction", (2,), labels - 1, labels - 1, Angle())


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_features_of_a_copy_cost_nothing_and_of_a_disturbed_one_something(kind):
    if kind == "mlp":
        teacher = mlp()
        data = torch.randn(32, 2)
    else:
        teacher = Denoiser(new_unet(8, 1, 0, (8, 8)), VP, "v_prediction", (1, 8, 8))
        data = torch.randn(32, 1, 8, 8)
    term = build_term(FeaturesSettings(term="features"))
    for spoil, least in ((0.0, 0.0), (0.05, 1e-6)):
        student = copy.deepcopy(teacher)
        with torch.no_grad():
            next(student.parameters()).add_(spoil)
        step = make_step({"student": student, "teacher": teacher, TEACHER_NETWORK: teacher}, n=16, data=data)
        term.prepare(step, 0)
        assert not term.heads
        loss, statistics = term.loss(step)
        assert (loss <= 1e-9) == (not least) and (loss > least or not least)
        assert torch.allclose(loss, statistics["output"] + statistics["features"])
        norm = sum(g.square().sum() for g in torch.autograd.grad(loss, student.parameters(), allow_unused=True)
                   if g is not None)  # fmt: skip
        assert (norm <= 1e-12) == (not least)


def test_features_of_different_sizes_are_mapped_by_what_trains_with_the_student():
    teacher = mlp()
    size = SizeSettings(width=0.5, depth=0.67)
    student = make_student(teacher, StudentSettings(size=size)).denoiser
    exact = pair(VP)
    term = build_term(FeaturesSettings(term="features"))
    step = view(student, exact, n=64, **{TEACHER_NETWORK: teacher})
    term.prepare(step, 3)
    assert [layer.weight.shape for layer in term.heads["student"]] == [(16, 8)] * 3  # two layers and the middle
    loss = term.loss(step)[0]
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in term.heads["student"].parameters())
    again = build_term(FeaturesSettings(term="features"))
    again.prepare(step, 3)
    assert torch.equal(again.heads["student"][0].weight, term.heads["student"][0].weight)


def test_normalised_errors_do_not_depend_on_the_size_of_features():
    source = torch.Generator().manual_seed(0)
    found, wanted = torch.randn(8, 4, generator=source), torch.randn(8, 4, generator=source)
    assert torch.allclose(feature_error(found, wanted, True), feature_error(100 * found, 100 * wanted, True))
    assert torch.allclose(10**4 * feature_error(found, wanted, False), feature_error(100 * found, 100 * wanted, False))


def test_annealed_noise_stays_normal_and_ends_as_the_pairs():
    source = torch.Generator().manual_seed(0)
    noise, fresh = torch.randn(2, 10**5, generator=source).unbind()
    for beta in (0.0, 0.6, 1.0):
        mixed = annealed(noise, fresh, beta)
        assert abs(float(mixed.var()) - 1) < 0.02
        assert abs(float((mixed * noise).mean()) - (1 - beta**2) ** 0.5) < 0.01


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_annealed_reflow_starts_as_flow_matching_and_ends_as_reflow(process):
    """At its start the optimum is the posterior mean, as with independent noise; at its end the straight pairs' own."""

    def straight(x, alpha, sigma, mean=0.7, std=0.5):  # of pairs x0 = mean + std z: the state gives both
        return mean + std * (x - alpha * mean) / (alpha * std + sigma)

    def posterior(x, alpha, sigma, mean=0.7, std=0.5):
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)

    term = build_term(FlowMatchingSettings(term="flow_matching", anneal=0.5))
    for progress, formula in ((0.0, posterior), (0.5, straight)):
        networks = {"student": formula_student(process, formula)}
        mean, error = gradients(term, networks, pairs=Pairs(), progress=progress)
        assert bool((mean.abs() <= 4.5 * error + 1e-6).all()), (progress, mean, error)


def test_high_frequencies_are_those_that_pass_the_filter():
    flat = torch.ones(2, 1, 8, 8)
    checked = torch.ones(8, 8)
    checked[::2] *= -1
    checked[:, ::2] *= -1
    zero = torch.zeros(2, 1, 8, 8)
    assert high_frequency_error(flat, zero, 0.25).abs().max() < 1e-10
    assert torch.allclose(high_frequency_error(checked.expand(2, 1, 8, 8), zero, 0.99), torch.ones(2), atol=1e-5)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = (x - x.mean((2, 3), keepdim=True)).square().flatten(1).mean(1)  # all but the constant
    assert torch.allclose(high_frequency_error(x, torch.zeros_like(x), 0.0), whole, atol=1e-5)
    pairs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert torch.allclose(high_frequency_error(pairs, torch.zeros(2, 2), 0.5), torch.tensor([0.0, 1.0]), atol=1e-6)

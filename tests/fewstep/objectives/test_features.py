"""Features against networks of linear layers: u of unit variance -> f1 = B1 u -> f2 = B2 f1, the velocity too.

With M the batch's second moment of u, E |B u - A u|^2 over D dimensions is tr((B - A) M (B - A)') / D.
"""

import pytest
import torch
from torch import Tensor, nn

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import Process, like
from fewstep.objectives.features.settings import FeaturesSettings
from fewstep.objectives.registry import build
from fewstep.objectives.term_settings import TEACHER_NETWORK
from fewstep.training.step.step_context import Step
from tests.fewstep.objectives.gaussian import IDS, PROCESSES, make_step, samples

A1, A2 = torch.tensor([[1.0, 0.5], [0.0, 2.0]]), torch.tensor([[1.0, -1.0], [0.5, 1.0]])
B1, B2 = torch.tensor([[1.5, 0.0], [0.2, 1.0]]), torch.tensor([[0.5, 0.0], [1.0, 1.0]])


class Layers(nn.Module):
    """Linear stages with these weights, one after the other."""

    def __init__(self, *weights: Tensor):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights)
        for layer, weight in zip(self.blocks, weights, strict=True):
            layer.weight.data.copy_(weight)

    def forward(self, x: Tensor, angle: Tensor, labels: Tensor | None = None) -> Tensor:
        for layer in self.blocks:
            x = layer(x)
        return x


def prepared(process: Process, own: tuple[Tensor, ...], theirs: tuple[Tensor, ...], **kwargs):
    """(term, step, student's layers) of a student and a teacher with these weights."""
    student, teacher = (Denoiser(Layers(*w), process, "v_prediction", (2,), adapter=Angle()) for w in (own, theirs))
    step = make_step({"student": student, "teacher": teacher, TEACHER_NETWORK: teacher}, n=64, data=samples(64))
    term = build(FeaturesSettings(term="features", **kwargs))
    term.prepare(step, 0)
    return term, step, student.network.blocks


def moment(step: Step, term) -> Tensor:
    """M (2, 2): the second moment of the states that the networks see."""
    x_t, t, _ = step.shared.noised("real", term.settings.times)
    process = step.student.process
    u = x_t / like((process.alpha(t).square() + process.sigma(t).square()).sqrt(), x_t)
    return u.T @ u / len(u)


def size(weight: Tensor, m: Tensor) -> Tensor:
    """E |W u|^2 over two dimensions."""
    return torch.trace(weight @ m @ weight.T) / 2


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_value_and_gradient_are_those_of_the_layers_by_hand(process, normalised):
    term, step, layers = prepared(process, (B1, B2), (A1, A2), output=3.0, normalised=normalised)
    loss, statistics = term.loss(step)
    loss.backward()
    m = moment(step, term)
    first, second = (size(w, m) if normalised else torch.ones(()) for w in (A1, A2 @ A1))
    apart = B2 @ B1 - A2 @ A1
    features = (size(B1 - A1, m) / first + size(apart, m) / second) / 2
    assert torch.allclose(statistics["output"], size(apart, m), rtol=1e-4)
    assert torch.allclose(statistics["features"], features, rtol=1e-4)
    assert torch.allclose(loss, 3 * size(apart, m) + features, rtol=1e-4)
    by_last = (3 + 1 / (2 * second)) * apart @ m
    by_first = B2.T @ by_last + (B1 - A1) @ m / (2 * first)
    assert torch.allclose(layers[1].weight.grad, by_last @ B1.T, rtol=1e-3, atol=1e-4)
    assert torch.allclose(layers[0].weight.grad, by_first, rtol=1e-3, atol=1e-4)


def test_features_tell_students_apart_whose_outputs_are_equal():
    """Twice the first layer, half the second: no error of the output, |2 f - f|^2 = |f|^2 at the first stage of two."""
    for scale in (1.0, 2.0):
        term, step, _ = prepared(PROCESSES[0], (scale * A1, A2 / scale), (A1, A2))
        _, statistics = term.loss(step)
        assert statistics["output"] < 1e-10
        assert torch.allclose(statistics["features"], torch.tensor((scale - 1) ** 2 / 2), atol=1e-6)


def test_a_map_of_channels_makes_up_for_a_narrower_student():
    """The teacher's three channels are P times the student's two: exact where the map is P, known where it is not."""
    p, back = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]])
    term, step, _ = prepared(PROCESSES[0], (B1, back @ p), (p @ B1, back))
    maps = term.heads["student"]
    assert isinstance(maps[0], nn.Linear) and isinstance(maps[1], nn.Identity)
    maps[0].bias.data.zero_()
    for scale in (1.0, 1.5):
        maps[0].weight.data.copy_(scale * p)
        loss, _ = term.loss(step)
        assert torch.allclose(loss, torch.tensor((scale - 1) ** 2 / 2), atol=1e-6)

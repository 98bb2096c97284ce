"""The policy's path against a numerical one, its end against a DDIM step, and its loss at the exact policy."""

import pytest
import torch

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow
from fewstep.networks.initial_weights import build as initialised
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.objectives.common.flow_coordinates import flow_time
from fewstep.objectives.policy_imitation.loss import Policy, hats, mean_weights, weights
from fewstep.objectives.policy_imitation.settings import PolicyImitationSettings
from fewstep.objectives.registry import build
from fewstep.training.step.batches import Sources
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup
from tests.fewstep.objectives.gaussian import IDS, MU, PROCESSES, S, gaussian

TIMES = torch.linspace(0.3, 0.9, 7, dtype=torch.float64)


def policy(count=4, start=0.9, end=0.3):
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(7, 2, generator=draw, dtype=torch.float64)
    return Policy(y, torch.randn(7, count, 2, generator=draw, dtype=torch.float64), start, end)


def test_the_closed_path_solves_its_ode():
    made, small = policy(), 1e-5
    u = torch.full((7,), 0.61, dtype=torch.float64) - 0.03 * torch.arange(7, dtype=torch.float64)
    slope = (made.state(made.places(u + small)) - made.state(made.places(u - small))) / (2 * small)
    torch.testing.assert_close(slope, made.velocity(made.places(u), made.state(made.places(u))), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(made.state(made.places(torch.full((7,), 0.9, dtype=torch.float64))), made.y)
    torch.testing.assert_close(weights(TIMES, 0.9, 0.3, 5).sum(1), 1 - TIMES / 0.9)
    torch.testing.assert_close(hats(TIMES, 0.9, 0.3, 7), torch.eye(7, dtype=torch.float64).flip(0))


@pytest.mark.parametrize("end", [0.0, 0.3])
def test_the_path_ends_where_one_ddim_step_with_the_mean_anchor_does(end):
    made = policy(end=end)
    last = torch.full((7,), max(end, 1e-7), dtype=torch.float64)
    x = (mean_weights(0.9, end, 4)[None, :, None] * made.anchors).sum(1)
    expected = end / 0.9 * made.y + (1 - end / 0.9) * x
    torch.testing.assert_close(made.state(made.places(last)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean_weights(0.9, end, 4).sum(), torch.tensor(1.0, dtype=torch.float64))


def exact_anchors(y, start, end, count):
    """E[x0 | y_u] at evenly spread times along the exact path of a Gaussian from y at `start`."""

    def variance(u):
        return (1 - u) ** 2 * S**2 + u**2

    u = torch.linspace(start, end, count, dtype=torch.float64)[None, :, None]
    centred = y[:, None] - (1 - start) * MU
    return MU + (1 - u) * S**2 / (variance(u) * variance(torch.tensor(start))).sqrt() * centred


@pytest.mark.parametrize("compared", ["velocity", "x0"])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_loss_vanishes_at_the_exact_policy_with_the_fourth_power_of_the_anchors_distance(
    process, compared, monkeypatch
):
    teacher = gaussian(process)
    losses = []
    for count in (9, 17):
        term = build(PolicyImitationSettings(term="policy_imitation", anchors=count, least=0.1, compared=compared))
        setup = StepSetup({"student": teacher, "teacher": teacher}, [process.t_max], Sources())
        step = Step(setup, "student", Draws(0, 0, 0, 4096, torch.device("cpu")))
        start = float(flow_time(process, torch.tensor([process.t_max])))
        last = torch.tensor(process.t_max, dtype=torch.float64)
        y = step.shared.start(step.draws.normal("generator")).double()
        y = y / float(process.alpha(last) + process.sigma(last))
        exact = Policy(y, exact_anchors(y, start, 0.0, count), start, 0.0)
        monkeypatch.setattr(term, "_policy", lambda _step, exact=exact: exact)
        losses.append(float(term.loss(step)[0]))
    assert losses[1] < 1e-4 and 10 < losses[0] / losses[1] < 24


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_predictions_of_x0_are_compared_as_velocities_are_by_the_square_of_the_flow_time(process, monkeypatch):
    teacher, u = gaussian(process), torch.tensor(0.4, dtype=torch.float64)
    setup = StepSetup({"student": teacher, "teacher": teacher}, [process.t_max], Sources())
    step = Step(setup, "student", Draws(0, 0, 0, 64, torch.device("cpu")))
    monkeypatch.setattr(step.draws, "uniform", lambda name: torch.full((64,), float(u)))
    y = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    off, losses = Policy(y, torch.zeros(64, 3, 2, dtype=torch.float64), 1.0, 0.0), {}
    for compared in ("velocity", "x0"):
        term = build(PolicyImitationSettings(term="policy_imitation", states=1, least=1e-12, compared=compared))
        monkeypatch.setattr(term, "_policy", lambda _step: off)
        losses[compared] = term.loss(step)[0].double()
    torch.testing.assert_close(losses["x0"], u.square() * losses["velocity"], rtol=1e-4, atol=0)


def networks(process):
    kind = "sample" if isinstance(process, EDM) else "v_prediction"
    mlp = Denoiser(initialised(lambda: ResidualMLP((2,), 4)), process, "v_prediction", (2,), 3, 3, Angle())
    return [mlp, Denoiser(new_unet(8, 1, 3), process, kind, (1, 8, 8), 3, 3)]


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("number", [0, 1], ids=["mlp", "unet"])
def test_a_policy_of_either_network_lands_on_the_students_own_next_state(number, steps):
    process = Flow()
    own = networks(process)[number].requires_grad_(False)
    term = build(PolicyImitationSettings(term="policy_imitation", anchors=5))
    setup = StepSetup({"student": own, "teacher": own}, process.grid(steps).tolist(), Sources(), "ode")
    step = Step(setup, "student", Draws(0, 0, 0, 6, torch.device("cpu")))
    term.prepare(step, 0)
    assert not term.heads["student"](torch.zeros_like(_head_input(term, own))).any()
    torch.nn.init.normal_(term.heads["student"].layer.weight, std=0.1)
    made = term._policy(step)
    prediction = own.predict(step.shared.exit_state, step.draws.full(step.grid[step.shared.exit]), step.batch.condition)
    end = torch.full((6,), max(made.end, 1e-7), dtype=torch.float64)
    assert (made.anchors.std(1) > 1e-3).any()
    there = process.add_noise(prediction.x0, prediction.epsilon, step.draws.full(made.end))
    torch.testing.assert_close(made.state(made.places(end)), there, rtol=1e-3, atol=1e-3)


def _head_input(term, own):
    head = term.heads["student"].layer
    return torch.zeros(1, head.in_features) if hasattr(head, "in_features") else torch.zeros(1, head.in_channels, 8, 8)


def test_the_gradient_reaches_student_and_head_and_lowers_the_loss():
    process = Flow()
    own = networks(process)[0].requires_grad_(True)
    setup = StepSetup({"student": own, "teacher": gaussian(process)}, [1.0], Sources())
    step = Step(setup, "student", Draws(0, 0, 0, 256, torch.device("cpu")))
    step.batch.__dict__["condition"] = None
    term = build(PolicyImitationSettings(term="policy_imitation", dropout=0.05))
    term.prepare(step, 0)
    before, statistics = term.loss(step)
    assert statistics["deviation"] == 0
    before.backward()
    weights = [*own.parameters(), *term.heads["student"].parameters()]
    assert term.heads["student"].layer.weight.grad.abs().max() > 0 and own.network.leave.weight.grad.abs().max() > 0
    with torch.no_grad():
        for weight in weights:
            if weight.grad is not None:
                weight -= 1e-6 * weight.grad
    assert term.loss(step)[0] < before

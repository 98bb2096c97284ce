"""Progressive targets: their algebra, their optimum, and grids that nest."""

import pytest
import torch

from fewstep.diffusion.processes import EDM, VariancePreserving
from fewstep.objectives.adversarial.settings import AdversarialSettings
from fewstep.objectives.common.distances import perceptual, squared
from fewstep.objectives.common.solver_step_settings import HopSettings
from fewstep.objectives.common.solver_steps import landing, make_hop
from fewstep.objectives.registry import build
from fewstep.objectives.regression.loss import snr_trunc
from fewstep.objectives.regression.settings import RegressionSettings
from fewstep.recipes import load_recipe
from fewstep.training.step.batches import Sources, TensorData
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup
from tests.fewstep.objectives.gaussian import (
    IDS,
    PROCESSES,
    States,
    consistency,
    flow_map,
    gaussian,
    leading_to,
    make_step,
    samples,
    student,
)
from tests.fewstep.training.small import finish, run, teacher, tiny


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_one_step_from_the_target_lands_on_the_teachers_state(process):
    x_t, x_s = torch.randn(2, 256, 3, dtype=torch.float64)
    grid = process.grid(8)
    t, s = (grid[torch.arange(256) % 7 + k] for k in (0, 1))
    a, b, c, d = (f(u)[:, None] for u in (t, s) for f in (process.alpha, process.sigma))
    x0 = landing(x_t, x_s, a, b, c, d)
    assert torch.allclose(c * x0 + d * (x_t - a * x0) / b, x_s, rtol=0, atol=1e-12)
    clean = torch.ones_like(c), torch.zeros_like(d)
    assert torch.equal(landing(x_t, x_s, a, b, *clean), x_s)


def hop_step(process, own, parts=2, n=512):
    finest = process.grid(4 * parts).tolist()
    sources = Sources(data=TensorData(samples(1 << 12)))
    draws = Draws(0, 0, 0, n, torch.device("cpu"))
    setup = StepSetup({"student": own, "teacher": gaussian(process)}, finest[::parts], sources, finest=finest)
    return Step(setup, "student", draws)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_a_hop_is_the_teachers_ddim_steps_and_the_loss_vanishes_at_its_target(process, parts):
    own = student(process, consistency)
    step = hop_step(process, own, parts)
    hop = make_hop(step, HopSettings(teacher_steps=parts))
    nodes, exact = [*step.nodes(parts), None], gaussian(process)
    for i in range(0, 512, 37):
        k = next(k for k, t in enumerate(step.grid) if t == float(hop.t[i])) * parts
        x = hop.x_t[i : i + 1]
        for t, s in zip(nodes[k : k + parts], nodes[k + 1 : k + 1 + parts], strict=True):
            found = exact.predict(x, t)
            x = found.x0 if s is None else process.add_noise(found.x0, found.epsilon, torch.tensor([s]))
        assert torch.allclose(hop.x_s[i], x[0], atol=1e-5 * float(process.scale(hop.t[i]) + 1))
    ideal = student(process, lambda *_: hop.target)
    term = build(RegressionSettings(term="regression", at="hops", hop={"teacher_steps": parts}, weighting="snr_trunc"))
    assert term.loss(hop_step(process, ideal, parts))[0] == 0
    if parts == 1:  # one teacher step: its target is the teacher itself
        assert torch.allclose(hop.target, exact.x0(hop.x_t, hop.t), atol=1e-3)
    else:  # more steps come nearer to the flow map than one does: on the whole by first order, from every node by some
        flow = flow_map(hop.x_t, hop.alpha_t, hop.sigma_t, hop.alpha_s, hop.sigma_s)
        near, far = squared(hop.x_s, flow), squared(hop.land(exact.predict(hop.x_t, hop.t)), flow)
        assert near.mean() < 1.5 / parts**2 * far.mean()
        for t in hop.t.unique():  # EDM's last two steps with parts = 2 are 0.035 -> 0.002 -> 0: little to gain
            assert near[hop.t == t].mean() < (1 if parts == 2 else 0.5) * far[hop.t == t].mean()


def test_the_truncated_weight_takes_the_larger_of_two_errors():
    process = VariancePreserving.cosine()
    t = torch.tensor([0.1, 0.5, 0.9])
    x, other, x_t = torch.randn(3, 3, 2, dtype=torch.float64)
    a, s = process.alpha(t.double()), process.sigma(t.double())
    noises = [(x_t - a[:, None] * x0) / s[:, None] for x0 in (x, other)]
    found = squared(x, other) * snr_trunc(s / a)
    assert torch.allclose(found, torch.maximum(squared(x, other), squared(*noises)))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_next_state_is_reached_where_the_flow_map_is_known(process):
    """On two stored states of the exact flow the target leads from one to the other, from the last one to the end."""
    times = process.grid(4)[1:3]
    alphas, sigmas = process.alpha(times), process.sigma(times)
    states = States(process, sigmas / alphas)

    def exact(x, alpha, sigma):
        first = torch.isclose(sigma, sigmas[0].to(sigma))  # not by alpha, which EDM has the same everywhere
        end = torch.where(first, alphas[1], 1.0).to(x), torch.where(first, sigmas[1], 0.0).to(x)
        return leading_to(flow_map(x, alpha, sigma, *end), x, alpha, sigma, *end)

    term = build(RegressionSettings(term="regression", at="states", to="next"))
    step = make_step({"student": student(process, exact)}, n=256, pairs=states)
    assert term.loss(step)[0] < 1e-6
    ends = build(RegressionSettings(term="regression", at="states"))
    assert ends.loss(make_step({"student": student(process, exact)}, n=256, pairs=states))[0] > 1e-3


def test_perceptual_distance_is_zero_for_equal_features_and_leads_to_them():
    x, y = torch.randn(2, 8, 4)
    x.requires_grad_()
    features = [lambda v: v, lambda v: v.reshape(-1, 2, 2)]
    assert perceptual(y, y, lambda v: [f(v) for f in features]).abs().max() < 1e-6
    found = perceptual(x, y, lambda v: [f(v) for f in features[:1]])
    cosine = torch.nn.functional.cosine_similarity(x, y)
    assert torch.allclose(found, 2 - 2 * cosine, atol=1e-6)
    step = torch.autograd.grad(found.sum(), x)[0]
    assert (perceptual(x - 0.1 * step, y, lambda v: [v]) < found).all()


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_steps_of_all_rounds_nest_and_the_last_are_the_students_own(process, tmp_path):
    own = teacher()
    own.process = process
    job = run(tiny("progressive", steps=2), tmp_path, teacher=own)
    base = job._start(0, None)
    grids = [torch.tensor(job._times(base, r.times_steps), dtype=torch.float64) for r in job.recipe.rounds]
    assert [len(grid) for grid in grids] == [32, 16, 8, 4, 2]
    for fine, coarse in zip(grids, grids[1:], strict=False):
        assert torch.equal(fine[::2], coarse)
    if not isinstance(process, EDM):  # whose grid of two ends at sigma_min: no every-other of a finer one
        assert torch.equal(grids[-1], process.grid(2))
    assert grids[-1][0] == process.t_max


@pytest.mark.parametrize("paired", [False, True])
def test_a_critic_of_hops_tells_the_students_landing_from_the_teachers(paired):
    """At the teacher's own landing nothing is to be told; elsewhere the student is drawn towards it."""
    process = VariancePreserving.cosine()
    term = build(AdversarialSettings(term="adversarial", at="hops", features="samples", paired=paired, times=None,
                                      gradient_penalty={"kind": "exact"}))  # fmt: skip
    own = student(process, consistency)
    term.prepare(hop_step(process, own, n=2), 1)
    hop = make_hop(hop_step(process, own), term.settings.hop)
    ideal = student(process, lambda *_: hop.target)
    step = hop_step(process, ideal)
    fake, real = (term._judge(step, term._features(step, what)[0]) for what in ("fake", "real"))
    assert torch.allclose(fake, real, atol=1e-4)
    assert fake.shape == (512, 1) and hop.s.shape == (512,)
    step = hop_step(process, own)
    step.role = "discriminator"
    loss, figures = term.loss(step)
    assert loss.requires_grad and figures["steepness"] > 0
    assert own.network.shift.grad is None
    step = hop_step(process, own)
    loss, _ = term.loss(step)
    assert torch.autograd.grad(loss, own.network.shift)[0].abs().min() > 0


def test_a_run_of_halving_rounds_ends_with_the_students_steps(tmp_path):
    job = run(tiny("progressive"), tmp_path)
    finish(job)
    assert [job.student_after(k).sampler.steps for k in range(5)] == [16, 8, 4, 2, 1]
    assert load_recipe("progressive").finest == 32

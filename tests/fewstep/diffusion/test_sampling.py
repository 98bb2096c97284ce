"""Solvers against the exact flow of a mixture, in every process."""

import math

import pytest
import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.diffusion.sampling import network_evaluations, sample, steps_for
from fewstep.diffusion.solvers import SOLVERS, is_stochastic, scheduler_name
from fewstep.networks.unet_mlp import new_unet
from fewstep.teachers import GaussianMixture
from fewstep.util.errors import SettingsError

PROCESSES = [VariancePreserving.cosine(), VariancePreserving.scheduled("linear"), Flow(), EDM()]
NAMES = ["cosine", "linear", "flow", "edm"]
ANGLES = torch.arange(8) * (math.pi / 4)
RING = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
NOISE = torch.randn(128, 2, generator=torch.Generator().manual_seed(0))
DETERMINISTIC = ["ddim", "euler", "dpmsolver++", "unipc", "heun"]


def ring(process) -> GaussianMixture:
    return GaussianMixture(RING, 0.15, process=process)


@pytest.fixture(scope="module")
def exact():
    """The end of the exact flow of NOISE, by process."""
    return {
        name: ring(p).flow(p.initial(NOISE.double()), p.t_max, p.t_min, steps=128)
        for name, p in zip(NAMES, PROCESSES, strict=True)
    }


def error(process, end, solver: str, evaluations: int) -> float:
    steps = steps_for(solver, evaluations) or (evaluations + 1) // 2
    return float((sample(ring(process), NOISE, solver=solver, steps=steps).x - end).square().mean().sqrt())


@pytest.mark.parametrize("name", ["cosine", "flow", "edm"])  # the linear chain ends at σ = 0.01, not at clean data
@pytest.mark.parametrize("solver, order", [("ddim", 1), ("euler", 1), ("dpmsolver++", 2), ("unipc", 2), ("heun", 2)])
def test_order_of_convergence(name, solver, order, exact):
    process = PROCESSES[NAMES.index(name)]
    coarse, fine = (error(process, exact[name], solver, evaluations) for evaluations in (16, 64))
    observed = math.log2(coarse / fine) / 2
    assert observed > order - 0.15
    if order == 1:
        assert observed < 1.15


@pytest.mark.parametrize("name, process", zip(NAMES, PROCESSES, strict=True))
@pytest.mark.parametrize("solver, most", [
    ("ddim", {1: 0.75, 2: 0.35, 4: 0.12, 8: 0.055, 16: 0.03}),
    ("dpmsolver++", {1: 0.75, 2: 0.35, 4: 0.10, 8: 0.045, 16: 0.02}),
    ("unipc", {1: 0.75, 2: 0.35, 4: 0.09, 8: 0.045, 16: 0.02}),
    ("heun", {1: 0.75, 3: 0.12, 7: 0.07, 15: 0.035}),
])  # fmt: skip
def test_accuracy_at_few_evaluations(name, process, solver, most, exact):
    for evaluations, limit in most.items():
        assert error(process, exact[name], solver, evaluations) < limit, evaluations


def test_thirty_two_evaluations_of_the_default_solver_are_within_a_hundredth(exact):
    assert error(PROCESSES[0], exact["cosine"], "dpmsolver++", 32) < 1e-2


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_one_evaluation_is_the_prediction_at_pure_noise(process, solver):
    teacher = ring(process)
    one = sample(teacher, NOISE, solver=solver, steps=1)
    assert torch.allclose(one.x, teacher.x0(process.initial(NOISE), process.t_max), atol=1e-5)
    assert one.evaluations == 1


@pytest.mark.parametrize("solver", ["dpmsolver++", "heun"])
def test_every_process_gives_the_same_samples(solver):
    found = [sample(ring(process), NOISE, solver=solver, steps=12).x for process in (PROCESSES[0], PROCESSES[2])]
    assert (found[0] - found[1]).square().mean().sqrt() < 5e-3


@pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
def test_kept_states_are_the_solvers_own(process):
    """From each kept state, one DDIM step by hand in native time leads to the next; the last leads to the sample."""
    teacher = ring(process)
    result = sample(teacher, NOISE, solver="ddim", steps=6, keep="all")
    assert result.states.shape == (128, 6, 2) and result.times.shape == (6,)
    assert torch.equal(result.states[:, 0], process.initial(NOISE)) and result.times[0] == process.t_max
    for k in range(6):
        prediction = teacher.predict(result.states[:, k], result.times[k])
        if k == 5:
            assert torch.allclose(prediction.x0, result.x, atol=1e-5)
        else:
            t = result.times[k + 1]
            by_hand = process.alpha(t) * prediction.x0 + process.sigma(t) * prediction.epsilon
            assert torch.allclose(by_hand.float(), result.states[:, k + 1], atol=1e-4 * float(process.scale(t)) + 1e-5)


@pytest.mark.parametrize("solver", ["dpmsolver++", "heun", "unipc"])
def test_kept_states_lie_on_the_exact_trajectory(solver):
    process = PROCESSES[0]
    teacher = ring(process)
    result = sample(teacher, NOISE, solver=solver, steps=32, keep=[0, 16, 31])
    assert result.states.shape == (128, 3, 2)
    for state, t in zip(result.states.unbind(1), result.times, strict=True):
        truth = teacher.flow(NOISE.double(), 1.0, float(t), steps=64)
        assert (state - truth).square().mean().sqrt() < 0.01
    alone = sample(teacher, NOISE, solver=solver, steps=32)
    assert torch.equal(alone.x, result.x) and alone.states is None and alone.times is None


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_evaluations_are_counted_as_they_happen(solver, guidance):
    teacher, seen = ring(PROCESSES[0]), []
    labels = torch.arange(128) % 8
    result = sample(
        teacher, NOISE, solver=solver, steps=5, condition=labels, guidance=guidance, on_step=lambda *p: seen.append(p)
    )
    assert result.evaluations == teacher.evaluations == network_evaluations(solver, 5, guidance)
    calls = network_evaluations(solver, 5)
    assert seen == [(made, calls) for made in range(1, calls + 1)]


def test_steps_and_evaluations_are_inverse():
    for solver in (*SOLVERS, "KDPM2DiscreteScheduler"):
        for steps in (1, 2, 3, 16):
            for guidance in (1.0, 3.0):
                assert steps_for(solver, network_evaluations(solver, steps, guidance), guidance) == steps
    assert network_evaluations("heun", 8) == 15
    assert steps_for("heun", 16) is None and steps_for("ddim", 3, 2.0) is None and steps_for("ddim", 0) is None


def test_labels_and_guidance_reach_the_network():
    teacher = ring(PROCESSES[0])
    labels = torch.arange(128) % 8
    x = sample(teacher, NOISE, steps=16, condition=labels).x
    assert (x - RING[labels]).square().mean().sqrt() < 0.2


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler"])
def test_other_diffusers_schedulers_by_class_name(name, exact):
    assert error(PROCESSES[0], exact["cosine"], name, 32) < 0.012


def test_a_stochastic_solver_needs_a_generator_and_finds_the_distribution():
    teacher = ring(PROCESSES[0])
    for solver in ("ddpm", "EulerAncestralDiscreteScheduler"):
        with pytest.raises(SettingsError, match="generator"):
            sample(teacher, NOISE, solver=solver, steps=4)
        draws = [
            sample(teacher, NOISE, solver=solver, steps=60, generator=torch.Generator().manual_seed(seed)).x
            for seed in (1, 1, 2)
        ]
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
        assert abs(draws[0].norm(dim=1).mean() - 1.02) < 0.06
    assert is_stochastic("ddpm") and not is_stochastic("ddim")


def test_many_steps_stay_finite():
    for process, steps in zip(PROCESSES, (1000, 150, 150, 150), strict=True):
        x = sample(ring(process), NOISE[:4], solver="dpmsolver++", steps=steps).x
        assert torch.isfinite(x).all() and x.norm(dim=1).max() < 3


def test_a_network_is_driven_like_the_closed_form():
    """An independent DDIM loop over the same times gives the same images; the global generator stays put."""
    process = PROCESSES[0]
    network = new_unet(8, 1, 3, (8, 16))
    denoiser = Denoiser(network, process, "v_prediction", (1, 8, 8), 3, 3)
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0])
    before = torch.get_rng_state()
    result = sample(denoiser, noise, solver="ddim", steps=4, condition=labels, keep="all")
    assert torch.equal(torch.get_rng_state(), before)
    x = noise
    with torch.no_grad():
        for k, t in enumerate(result.times.tolist()):
            alpha, sigma = (f(torch.tensor(t, dtype=torch.float64)).float() for f in (process.alpha, process.sigma))
            v = network(x, torch.tensor(t * 999).float(), class_labels=labels).sample
            x0, epsilon = alpha * x - sigma * v, sigma * x + alpha * v
            if k < 3:
                after = result.times[k + 1]
                x = process.alpha(after).float() * x0 + process.sigma(after).float() * epsilon
    assert torch.allclose(result.x, x0, atol=1e-4)
    assert not result.x.requires_grad


def test_wrong_requests_are_refused():
    teacher = ring(PROCESSES[0])
    with pytest.raises(SettingsError, match="unknown solver 'dpmsolver'; did you mean 'dpmsolver"):
        sample(teacher, NOISE, solver="dpmsolver")
    with pytest.raises(SettingsError, match="at least one step"):
        sample(teacher, NOISE, steps=0)
    for keep in ([16], [-1], [1, 1], "some"):
        with pytest.raises(SettingsError, match="keep must be"):
            sample(teacher, NOISE, steps=16, keep=keep)
    assert scheduler_name("unipc") == scheduler_name("UniPCMultistepScheduler") == "UniPCMultistepScheduler"

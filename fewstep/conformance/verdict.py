"""The bar: how far a student's samples may be from its target's, and what share each mode may have."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.conformance.targets import Target
from fewstep.diffusion.guidance import calls
from fewstep.diffusion.randomness import derive, generator
from fewstep.diffusion.solvers import solver_names, steps_for
from fewstep.metrics.comparison.teacher_agreement import agreement
from fewstep.metrics.distances.sliced import sliced_wasserstein
from fewstep.students.student import Student
from fewstep.training.roles.fresh_networks import fresh_network

COUNT, DIRECTIONS = 5000, 64
SIMULATIONS, QUANTILE = 200, 0.99
AGREEMENT = 0.95
"""Correlation with the teacher's own steps that a cheaper student must reach."""
FACTOR = 2.0
"""A mode's share may be this many times its weight, or the weight this many times the share."""


def distance(x: Tensor, y: Tensor) -> float:
    """Sliced Wasserstein distance, always in the same directions."""
    return sliced_wasserstein(x, y, DIRECTIONS)


def null_quantile(target: Target, count: int | None = None, simulations: int | None = None) -> float:
    """99 % quantile of the distance between two sets of `count` (None: COUNT) samples of the target itself.

    Two disjoint sets out of a pool, `simulations` (None: SIMULATIONS) times: the variance of their difference is that
    of independent sets.
    """
    count = count or COUNT
    pool = target.samples(8 * count, derive(0, "conformance/null"))
    found = []
    for k in range(simulations or SIMULATIONS):
        order = torch.randperm(len(pool), generator=generator(0, "conformance/null", k))
        found.append(distance(pool[order[:count]], pool[order[count : 2 * count]]))
    return float(torch.tensor(found).quantile(QUANTILE))


def best_solver(target: Target, evaluations: int, seed: int = 0, count: int | None = None) -> tuple[str, float]:
    """The training-free solver nearest to the target at exactly so many network evaluations, and its distance."""
    reference, noise = reference_and_noise(target, seed, count)
    found = []
    for solver in solver_names():
        steps = steps_for(solver, evaluations, target.guidance)
        if steps is not None:
            drawn = target.solve(noise, solver, steps, seed)
            found.append((distance(drawn, reference), solver))
    if not found:
        return "none", float("inf")
    best = min(found)
    return best[1], best[0]


def reference_and_noise(target: Target, seed: int, count: int | None = None) -> tuple[Tensor, Tensor]:
    """`count` (None: COUNT) samples of the target, and as many noises for students and solvers."""
    count = count or COUNT
    noise = torch.randn(count, *target.mixture.sample_shape, generator=generator(seed, "conformance/noise"))
    return target.samples(count, derive(seed, "conformance/reference")), noise


def judge(
    target: Target, student: Student, null: float, solvers: dict, seed: int = 0, count: int | None = None
) -> dict:
    """Figures of a student, with what it `missed`, in words; empty: it meets the bar.

    A student that is to be cheaper than the teacher is compared with solvers at its own cost, whose whole distance from
    what the teacher makes by the student's steps is then the bar: it must be worth more than fewer steps.

    Half a solver's distance may be wider than what guidance or a reward changes. Where the recipe is about one, the
    samples must also be nearer to the target than to exact samples without it.

    Args:
        null: null_quantile of the target.
        solvers: (name, distance) of the best solver, by network evaluations; what is not there is measured and added.
        count: of the samples; None for COUNT.
    """
    count = count or COUNT
    reference, noise = reference_and_noise(target, seed, count)
    before = student.denoiser.evaluations
    drawn = student.sample(noise, condition=target.asked(count), seed=seed)
    evaluations = student.denoiser.evaluations - before
    step = calls(target.guidance)  # of a solver, which affords one at least
    affordable = step * max(round(evaluations * cost_share(target, student)) // step, 1)
    if affordable not in solvers:
        solvers[affordable] = best_solver(target, affordable, seed, count)
    name, free = solvers[affordable]
    found, bar = distance(drawn, reference), max(free if target.cheaper else free / 2, null)
    blind = distance(drawn, target.ignored(count, derive(seed, "conformance/reference"))) if target.about else None
    ratio = mode_shares(target, drawn) / target_weights(target, reference)
    odd = int(((ratio < 1 / FACTOR) | (ratio > FACTOR)).sum())
    agreed = _agreement_asked(target, student, noise, drawn, evaluations, seed)
    bars = {
        f"distance {found:.4g} > {bar:.4g}": bool(torch.isfinite(drawn).all()) and found <= bar,
        f"nearer to samples without the {target.about}, {blind or 0:.4g}": blind is None or found < blind,
        f"{odd} of {len(ratio)} modes off by over {FACTOR:g} ({ratio.min():.2f} to {ratio.max():.2f})": not odd,
    }
    if target.cheaper:
        told = f"correlation {agreed['correlation']:.3f} with the teacher's own steps < {AGREEMENT:g}"
        bars[told] = agreed["correlation"] >= AGREEMENT
    if target.recipe.target == "compression":
        bars["no fewer weights than the teacher"] = cost_share(target, student) < 1
    return {
        "distance": found,
        "blind": blind,
        "bar": bar,
        "solver": {"name": name, "distance": free},
        "null": null,
        "evaluations": evaluations,
        "modes": {"of": len(ratio), "within": len(ratio) - odd, "least": float(ratio.min()),
                  "most": float(ratio.max())},
        "agreement": agreed,
        "missed": [told for told, met in bars.items() if not met],
    }  # fmt: skip


def _agreement_asked(
    target: Target, student: Student, noise: Tensor, drawn: Tensor, evaluations: int, seed: int
) -> dict[str, float] | None:
    """`_agreement` of a student that is to follow the ODE; None for one that is to match distributions only.

    drawn: its samples of `noise`. A map of the flow that adds fresh noise between several steps is asked for one step.
    """
    if target.cheaper:
        return _agreement(target, noise, drawn)
    if not target.recipe.flow_map:
        return None
    mapped = evaluations == 1 or target.sampler.kind == "ode"  # the fresh noise between several leads elsewhere
    if not mapped:
        drawn = student.sample(noise, steps=1, condition=target.asked(len(noise)), seed=seed)
    return _agreement(target, noise, drawn)


def cost_share(target: Target, student: Student) -> float:
    """Cost of one of the student's evaluations over one of the teacher's: by weights, where it is to be smaller.

    The teacher's are those of the network that stands for it.
    """
    if target.recipe.target != "compression":
        return 1.0
    network = fresh_network(target.teacher, 0)
    own, whole = (sum(p.numel() for p in n.parameters()) for n in (student.denoiser.network, network.network))
    return own / whole


def mode_shares(target: Target, x: Tensor) -> Tensor:
    """Share (K,) of the samples in each mode."""
    counts = torch.bincount(target.modes(x.nan_to_num()), minlength=target.mixture.num_classes)
    return counts.double() / len(x)


def target_weights(target: Target, reference: Tensor) -> Tensor:
    """What share (K,) each mode should have: the mixture's weights, or where no closed form says, the reference's."""
    return target.mixture.weights if target.condition(1) is None else mode_shares(target, reference)


def _agreement(target: Target, noise: Tensor, drawn: Tensor) -> dict[str, float]:
    """How nearly the student follows the exact ODE from the same noise: correlation, and rms over the data's own."""
    exact = target.flow(noise)
    found = agreement(drawn.nan_to_num().numpy(), exact.numpy())
    spread = float((exact - exact.mean(0)).square().mean().sqrt())
    return {"correlation": found.correlation, "rms": found.rms / spread}

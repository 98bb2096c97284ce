"""Which two noise levels a pair lies at, as a function of the round's progress."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.objectives.consistency.settings import Gap, Grid
from fewstep.util.device import number_on

if TYPE_CHECKING:
    from fewstep.training.step.step_context import Step

RHO = 7.0
"""Levels are spread evenly in nu^(1/rho) (Karras et al., 2206.00364, eq. 5)."""


def pair(step: "Step", levels: Gap | Grid) -> tuple[Tensor, Tensor]:
    """Noise ratios (nu_t, nu_r), (N,) float64 each, 0 <= nu_r < nu_t; what lies at the clean end is 0."""
    return _gap(step, levels) if levels.kind == "gap" else _grid(step, levels)


def between(high: Tensor, low: Tensor | float, part: Tensor | float) -> Tensor:
    """The level at this part of the way from `high` to `low`, evenly in nu^(1/rho)."""
    root = high ** (1 / RHO)
    return (root + part * (number_on(high.device, low).to(high) ** (1 / RHO) - root)) ** RHO


def nearer(nu: Tensor, stage: int, q: float, k: float, b: float, cap: float) -> Tensor:
    """The lower noise ratio r of a pair (Geng et al., 2406.14548, section 3.2): (N,) -> (N,), 0 <= r <= cap * nu.

    r = nu max(0, 1 - q^-(stage + 1) (1 + k sigmoid(-b nu))): at stage 0 mostly 0 (denoising), later ever nearer to nu.
    """
    ratio = 1 - q ** -(stage + 1) * (1 + k * torch.sigmoid(-b * nu))
    return nu * ratio.clamp(0, cap)


def cells(levels: Grid, progress: float) -> int:
    """Cells of the grid at this share of the round.

    sqrt: Song et al., 2303.01469, appendix C, N = sqrt(p (s1^2 - s0^2) + s0^2). double: Song and Dhariwal, 2310.14189,
    eq. 14, N = s0 2^floor(p (log2(s1 / s0) + 1)), at most s1.
    """
    last, first = levels.cells, levels.first
    if first is None:
        return last
    if levels.growth == "double":
        return min(last, first * 2 ** int(progress * (math.log2(last / first) + 1)))
    return math.ceil(math.sqrt(progress * (last**2 - first**2) + first**2))


def _gap(step: "Step", s: Gap) -> tuple[Tensor, Tensor]:
    nu = step.levels.ratio(step.times(s.times)).double()
    r = nearer(nu, min(int(step.progress * s.stages), s.stages - 1), s.q, s.k, s.b, s.ratio_cap)
    return nu, r.masked_fill(r <= step.levels.least, 0.0)


def _grid(step: "Step", s: Grid) -> tuple[Tensor, Tensor]:
    n = cells(s, step.progress)
    if s.times is None:
        upper = (step.draws.uniform("cell") * n).floor() + 1
    else:
        drawn = step.levels.ratio(step.times(s.times, "cell")).double()
        upper = (n * _place(step, s, drawn)).ceil().clamp(1, n)
    lower = upper - 1
    if s.reach > 1:
        lower = (upper - 1 - step.draws.integers("reach", s.reach)).clamp_min(0)
    nu, r = _level(step, s, torch.stack([upper, lower]) / n).unbind()
    return nu, r.masked_fill(lower <= 0, 0.0)


def _level(step: "Step", s: Grid, place: Tensor) -> Tensor:
    """Noise ratio at places in [0, 1] from the clean to the noisy end of the grid."""
    high = step.levels.start
    if s.spacing == "karras":
        return between(torch.full_like(place, high), _low(step, s), 1 - place)
    ends = _native_ends(step, s)
    return step.levels.ratio(ends[0] + (ends[1] - ends[0]) * place).clamp_max(high)


def _place(step: "Step", s: Grid, nu: Tensor) -> Tensor:
    """Inverse of `_level`, beyond the ends outside of [0, 1]."""
    if s.spacing == "karras":
        low, high = _low(step, s) ** (1 / RHO), step.levels.start ** (1 / RHO)
        return (nu ** (1 / RHO) - low) / (high - low)
    ends = _native_ends(step, s)
    return (step.student.process.time(-2 * nu.log()) - ends[0]) / (ends[1] - ends[0])


def _low(step: "Step", s: Grid) -> float:
    """The grid's clean end, within the process."""
    return max(s.least, step.levels.least)


def _native_ends(step: "Step", s: Grid) -> Tensor:
    ends = torch.tensor([_low(step, s), step.levels.start], dtype=torch.float64)
    return step.student.process.time(-2 * ends.log())

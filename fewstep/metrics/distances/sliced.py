"""Sliced Wasserstein distance: the mean over random directions of the exact one-dimensional W2 distance."""

import torch
from torch import Tensor

from fewstep.util.errors import SettingsError

_DIRECTIONS_AT_ONCE = 64  # bounds memory: N x 64 float64 projections at a time


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 256, generator: torch.Generator | None = None) -> float:
    """Sliced 2-Wasserstein distance between two samples (Bonneel et al., J. Math. Imaging Vis. 2015).

        SW2(x, y) = ( mean over unit directions u of  W2(<x, u>, <y, u>)^2 )^(1/2)

    Args:
        x: (N, …) and
        y: (M, …) samples; everything after the first dimension is flattened to D. N and M may differ: the
            one-dimensional distance integrates the difference of the two empirical quantile functions exactly.
        projections: number of random directions, uniform on the sphere.
        generator: CPU generator for the directions; None takes directions from a fixed seed, the same in every call.

    Returns:
        The distance in the units of x, 0 for equal samples. For two samples of one distribution it is not 0 but
        falls as N^(-1/2): judge it against the same distance between two real samples of those sizes.

    Raises:
        SettingsError: the samples are empty or differ in dimension.
    """
    x, y = (sample.detach().flatten(1).to("cpu", torch.float64) for sample in (x, y))
    if x.shape[1] != y.shape[1] or min(len(x), len(y), x.shape[1], projections) < 1:
        raise SettingsError(
            f"sliced Wasserstein distance needs two non-empty samples of equal dimension and at least one projection; "
            f"got shapes {tuple(x.shape)} and {tuple(y.shape)}, {projections} projections"
        )
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    directions = torch.randn(projections, x.shape[1], generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=1, keepdim=True)

    # Both quantile functions are constant between neighbouring points of {i/N} and {j/M}.
    counts = {len(x), len(y)}
    levels = torch.cat([torch.arange(1, n + 1, dtype=torch.float64) / n for n in counts]).sort().values
    widths = levels.diff(prepend=levels.new_zeros(1))
    middles = levels - widths / 2
    rows = (middles * len(x)).long().clamp_(max=len(x) - 1)
    columns = (middles * len(y)).long().clamp_(max=len(y) - 1)

    total = 0.0
    for some in directions.split(_DIRECTIONS_AT_ONCE):
        a = (x @ some.T).sort(dim=0).values[rows]
        b = (y @ some.T).sort(dim=0).values[columns]
        total += float((widths[:, None] * (a - b).square()).sum())
    return (total / projections) ** 0.5

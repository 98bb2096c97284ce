"""What a sample starts from, as a function of (seed, sample index) alone."""

import torch
from torch import Tensor

from fewstep.diffusion.randomness import Permutation, integers, noise

UNIFORM, EACH_ONCE = "uniform classes", "each prompt once an epoch"
"""Where the conditions of a set come from."""


def sample_noise(seed: int, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """N(0, I) of samples ``indices`` (N,) int64 as float32 (N, *shape): the same whoever asks."""
    return noise(seed, "trajectories", indices, shape)


def sample_condition(seed: int, indices: Tensor, num_classes: int, source: str = UNIFORM,
                     among: Tensor | None = None) -> Tensor | None:  # fmt: skip
    """Conditions of samples ``indices`` (N,) as (N,) int64; None without classes.

    source: UNIFORM classes, or EACH_ONCE: every condition alike often, epoch by epoch in an order of its own.
    among: (n,) the conditions to take; None: 0 … num_classes − 1.
    """
    if not num_classes:
        return None
    if among is not None:
        return among[sample_condition(seed, indices, len(among), source)]
    if source == UNIFORM:
        return integers(seed, "trajectory-condition", indices, num_classes)
    epochs, places = indices // num_classes, indices % num_classes
    found = torch.empty_like(indices)
    for epoch in epochs.unique().tolist():
        of_epoch = epochs == epoch
        found[of_epoch] = Permutation(num_classes, seed, "trajectory-prompt", epoch)(places[of_epoch])
    return found

"""What a sample starts from, as a function of (seed, sample index) alone."""

from torch import Tensor

from fewstep.diffusion.randomness import integers, noise


def sample_noise(seed: int, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
    """N(0, I) of samples ``indices`` (N,) int64 as float32 (N, *shape): the same whoever asks."""
    return noise(seed, "trajectories", indices, shape)


def sample_condition(seed: int, indices: Tensor, num_classes: int) -> Tensor | None:
    """Uniform classes of samples ``indices`` (N,) as (N,) int64; None without classes."""
    return integers(seed, "trajectory-condition", indices, num_classes) if num_classes else None

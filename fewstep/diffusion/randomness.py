"""Randomness as a pure function of (seed, purpose, indices).

Nothing here reads or moves PyTorch's global generator. Sample 12345 gets the same noise whoever computes it, on any
rank, in any order, today or after a crash, so a checkpoint holds no generator state.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fewstep.util.errors import SettingsError

_BITS = 63
_ROUNDS = 6


def derive(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit integer that depends on all arguments: the head of SHA-256 over their text.

    `purpose` names what the number is for ("trajectories", "order"), so that two uses of one seed never share a stream.
    """
    text = "\0".join([str(int(seed)), purpose, *(str(int(index)) for index in indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A fresh CPU generator seeded by `derive`. Draw from it on the CPU and move the result: GPUs draw other bits."""
    return torch.Generator().manual_seed(derive(seed, purpose, *indices))


def noise(
    seed: int, purpose: str, indices: Iterable[int], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise, one independent draw per index: (N, *shape).

    Drawn in float64 on the CPU, where the bits do not depend on the vector unit, then cast to `dtype`.
    """
    indices = _integers(indices)
    out = torch.empty((len(indices), *shape), dtype=torch.float64)
    source = torch.Generator()
    for row, index in zip(out, indices, strict=True):
        torch.randn(row.shape, generator=source.manual_seed(derive(seed, purpose, index)), dtype=torch.float64, out=row)
    return out.to(dtype)


def uniform(seed: int, purpose: str, indices: Iterable[int]) -> Tensor:
    """Uniform numbers in [0, 1), one per index: (N,) float64."""
    return torch.tensor(
        [(derive(seed, purpose, index) >> (_BITS - 53)) * 2.0**-53 for index in _integers(indices)], dtype=torch.float64
    )


def integers(seed: int, purpose: str, indices: Iterable[int], high: int) -> Tensor:
    """Integers in [0, high), one per index: (N,) int64. The bias is below high / 2^63."""
    if high < 1:
        raise SettingsError(f"integers need high ≥ 1, got {high}")
    return torch.tensor([derive(seed, purpose, index) % high for index in _integers(indices)], dtype=torch.int64)


class Permutation:
    """A keyed bijection of 0 … n−1 in constant memory: position p of a shuffled epoch, with no list of n numbers.

    A Feistel network over a grid of a × b ≥ n cells; the few results outside 0 … n−1 are sent through again (cycle
    walking), which keeps it a bijection. Good for shuffling, not for secrets.

    Args:
        n: size of the domain, 1 … 2^62.
        seed, purpose, indices: the key, as in `derive` (an epoch goes into `indices`).
    """

    def __init__(self, n: int, seed: int, purpose: str, *indices: int):
        if not 1 <= n <= 2**62:
            raise SettingsError(f"a permutation needs 1 ≤ n ≤ 2^62, got {n}")
        self.n = n
        self._a = math.isqrt(n - 1) + 1
        self._b = -(-n // self._a)
        self._keys = [derive(seed, purpose, *indices, turn) for turn in range(2 * _ROUNDS)]

    def __len__(self) -> int:
        return self.n

    def __call__(self, positions: Tensor | Sequence[int]) -> Tensor:
        """Images of `positions` (any shape, integers in 0 … n−1) as int64 of the same shape.

        Raises SettingsError for a position outside the domain.
        """
        positions = torch.as_tensor(positions, dtype=torch.int64)
        if positions.numel() and not (int(positions.min()) >= 0 and int(positions.max()) < self.n):
            raise SettingsError(f"positions must lie in 0 … {self.n - 1}")
        out = self._shuffle(positions)
        while bool((outside := out >= self.n).any()):
            out = torch.where(outside, self._shuffle(torch.where(outside, out, 0)), out)
        return out

    def _shuffle(self, cell: Tensor) -> Tensor:
        left, right = cell % self._a, cell // self._a
        for turn in range(0, 2 * _ROUNDS, 2):
            left = (left + _mix(right, self._keys[turn]) % self._a) % self._a
            right = (right + _mix(left, self._keys[turn + 1]) % self._b) % self._b
        return right * self._a + left


def _mix(value: Tensor, key: int) -> Tensor:
    """Splitmix64's finaliser on int64 (multiplication wraps), result in 0 … 2^62−1."""
    value = value ^ key
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        value = (value ^ ((value >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (value >> 2) & (2**62 - 1)


def _integers(indices: Iterable[int]) -> list[int]:
    return indices.tolist() if isinstance(indices, Tensor) else [int(index) for index in indices]

"""Kernels of the kernel distance: each says what it is and sums itself over all pairs in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fewstep.metrics.protocol import rounded

_DEGREE = 3
_ROWS = 2048  # rows at a time: bounds memory
_PAIRS = 1 << 21  # pairs at a time, likewise
_TENSOR_FEATURES = 32  # up to this many features sums go through the third moment, in time linear in the samples


class Kernel(Protocol):
    """A positive definite function of two feature vectors."""

    @property
    def described(self) -> dict[str, str | float]:
        """What of it belongs into a protocol."""

    def sums(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,): Σⱼ k(xᵢ, yⱼ) for every row of x (n, d), over the rows of y (m, d)."""

    def diagonal(self, x: np.ndarray) -> np.ndarray:
        """(n,): k(xᵢ, xᵢ)."""


@dataclass(frozen=True)
class Cubic:
    """k(a, b) = (a·b / d + 1)³, KID's kernel (Bińkowski et al. 2018, arXiv 1801.01401)."""

    @property
    def described(self) -> dict[str, str | float]:
        return {"kernel": "(x·y/d + 1)^3"}

    def sums(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """With z = (x/√d, 1) the kernel is (zᵢ·zⱼ)³, and the sum over j is the third moment Σⱼ zⱼ⊗zⱼ⊗zⱼ contracted
        with zᵢ three times: no matrix of all pairs."""
        d = x.shape[1]
        if d > _TENSOR_FEATURES:
            rows = range(0, len(x), _ROWS)
            return np.concatenate([np.power(x[i : i + _ROWS] @ y.T / d + 1, _DEGREE).sum(1) for i in rows])
        third = sum(squares.T @ z for squares, z in _powers(y))
        return np.concatenate([((squares @ third) * z).sum(1) for squares, z in _powers(x)])

    def diagonal(self, x: np.ndarray) -> np.ndarray:
        return (np.square(x).sum(1) / x.shape[1] + 1) ** _DEGREE


def _powers(x: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(z⊗z (rows, (d+1)²), z (rows, d+1)) in blocks of rows."""
    for i in range(0, len(x), _ROWS):
        part = x[i : i + _ROWS]
        z = np.concatenate([part / np.sqrt(x.shape[1]), np.ones((len(part), 1))], axis=1)
        yield (z[:, :, None] * z[:, None, :]).reshape(len(z), -1), z


@dataclass(frozen=True)
class Gaussian:
    """k(a, b) = exp(−|a − b|² / (2 σ²)), σ the bandwidth: characteristic, so it sees differences of every order."""

    bandwidth: float

    @property
    def described(self) -> dict[str, str | float]:
        return {"kernel": "exp(-|x-y|^2 / (2 s^2))", "bandwidth": self.bandwidth}

    def sums(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found, of_y = np.empty(len(x)), np.square(y).sum(1)
        step = max(1, _PAIRS // len(y))
        for i in range(0, len(x), step):
            part = x[i : i + step]
            squared = part @ y.T
            squared *= -2
            squared += np.square(part).sum(1)[:, None]
            squared += of_y
            np.maximum(squared, 0, out=squared)
            squared *= -0.5 / self.bandwidth**2
            found[i : i + step] = np.exp(squared, out=squared).sum(1)
        return found

    def diagonal(self, x: np.ndarray) -> np.ndarray:
        return np.ones(len(x))


def median_bandwidth(reference: np.ndarray, at_most: int = 1000) -> float:
    """Median distance between different reference points (r, d), of the first `at_most`: the same for every model that
    is compared with this reference. Six digits, so that the protocol states the very value that is used."""
    from scipy.spatial.distance import pdist  # loads scipy

    return rounded(max(float(np.median(pdist(reference[:at_most]))), 1e-12))

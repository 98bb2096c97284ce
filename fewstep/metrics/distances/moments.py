"""Mean and covariance in float64, merged from parts without loss (memory independent of the number of samples)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean (d,) and scatter matrix Σ (x − mean)(x − mean)ᵀ (d, d) of a sample."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Of (n, d) features, n ≥ 1, centred before squaring (uncentred float32 sums are off by per cents)."""
        features = np.asarray(features, dtype=np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both samples together (Chan, Golub and LeVeque 1979)."""
        n = self.n + other.n
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n)
        return Moments(n, self.mean + step * (other.n / n), scatter)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance (d, d), divisor n − 1; needs n ≥ 2."""
        return self.scatter / (self.n - 1)


def merged(parts: list[Moments]) -> Moments:
    """Moments of the union of one or more parts."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total

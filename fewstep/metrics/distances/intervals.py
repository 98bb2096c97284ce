"""Confidence intervals at 95 %."""

import math

import numpy as np

from fewstep.metrics.protocol import NORMAL_QUANTILE

Interval = tuple[float, float]


def normal(value: float, standard_error: float) -> Interval:
    """value ± 1.96 standard errors."""
    return value - NORMAL_QUANTILE * standard_error, value + NORMAL_QUANTILE * standard_error


def wilson(share: float, n: int) -> Interval:
    """Score interval of a binomial share observed in n trials (Wilson 1927); inside [0, 1] also at 0 and 1."""
    z2 = NORMAL_QUANTILE**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_QUANTILE * math.sqrt(max(share * (1 - share), 0.0) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if share <= 0 else max(0.0, centre - half)), (1.0 if share >= 1 else min(1.0, centre + half))


def jackknife_variance(left_out: np.ndarray) -> float:
    """Variance of an estimate from its values with each of g groups left out (Efron and Stein 1981).

    (g − 1)/g · Σᵢ (θᵢ − mean)² for `left_out` of shape (g,).
    """
    groups = len(left_out)
    return float((groups - 1) / groups * np.square(left_out - left_out.mean()).sum())

"""What the test against the champion measured, as it stands in the audit log. No torch here."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_serializer

from fewstep.metrics.comparison.noninferiority import Finding
from fewstep.metrics.protocol import Protocol
from fewstep.util.config import Strict

Pair = tuple[int, int]
"""(candidate, champion)."""


class RealFigures(Strict):
    """`noninferiority.OfReal`."""

    figure: float
    candidate: float
    candidate_error: float
    champion: float
    champion_error: float


class ContrastFigures(Strict):
    """One `noninferiority.Finding`, with its contrast in one level."""

    metric: str
    group: str
    excess: float
    standard_error: float
    n: int
    margin: float
    candidate: float
    champion: float
    guard: bool
    real: RealFigures | None
    part: str = Field(default="class", exclude_if=lambda part: part == "class")
    verdict: str
    at_most: float
    at_least: float

    @classmethod
    def of(cls, finding: Finding) -> Self:
        return cls(**finding.to_dict())


class LatencyFigures(Strict):
    """Duration of the candidate over the champion's: median of n rounds, with its 95 % interval."""

    ratio: float
    interval: tuple[float, float]
    n: int


class CostFigures(Strict):
    """Network evaluations per sample, parameters, and the ratio of latencies where it was needed."""

    evaluations: Pair
    parameters: Pair
    latency: LatencyFigures | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialise) -> dict:
        return {name: value for name, value in serialise(self).items() if value is not None}


class ContestFigures(Strict):
    """Candidate against champion.

    Attributes:
        champion: its version number.
        n: samples of each model.
        seed: of the noise that they share.
        level, power: of the test.
        protocol: under which the kernel distance was measured.
    """

    champion: int
    n: int
    seed: int
    level: float
    power: float
    protocol: Protocol
    cost: CostFigures
    contrasts: tuple[ContrastFigures, ...]

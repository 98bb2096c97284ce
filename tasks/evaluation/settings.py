"""Resolved settings and results of the stages baselines and evaluate. No torch here."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from fewstep.diffusion.guidance import SampledScales
from fewstep.util.config import Strict
from tasks.config.schema import Evaluate

USUAL_COUNTS, TEACHER_COUNT = (1, 2, 4, 8), 16
"""Network evaluations of every solver and, beside them, of the teacher's own, where params.yaml does not say."""


class MeasureSettings(Strict):
    """What both stages share, and what decides whether their values can be compared.

    Attributes:
        samples: of every model.
        batch: samples per call of a network.
        seed: of noise, classes and orders.
        extractors: further feature extractors: SHA-256 of their files by name.
    """

    samples: int
    batch: int
    seed: int
    extractors: dict[str, str]

    @classmethod
    def of(cls, section: Evaluate) -> Self:
        """The part of params.yaml's section `evaluate` that this stage's output depends on."""
        return cls(**section.model_dump(include=set(cls.model_fields)))


class BaselinesSettings(MeasureSettings):
    """`solvers` at `baseline_steps` network evaluations each, the teacher's own at `teacher_steps` too where that is
    not None; `guidance`: scale, or scales, of the teacher."""

    guidance: SampledScales
    baseline_steps: tuple[int, ...]
    teacher_steps: int | None = Field(default=None, exclude_if=lambda steps: steps is None)
    solvers: tuple[str, ...]

    @classmethod
    def of(cls, section: Evaluate) -> Self:
        if section.baseline_steps is not None:
            return super().of(section)
        counts = {"baseline_steps": USUAL_COUNTS, "teacher_steps": TEACHER_COUNT}
        return cls(**{**section.model_dump(include=set(cls.model_fields)), **counts})

    @property
    def counts(self) -> list[int]:
        """All numbers of evaluations that some solver is asked for, each once, fewest first."""
        return sorted({*self.baseline_steps, *([] if self.teacher_steps is None else [self.teacher_steps])})


class EvaluateSettings(MeasureSettings):
    """The student with each number of `steps`; `grid`: columns of the picture."""

    steps: tuple[int, ...]
    grid: int

    @property
    def counts(self) -> list[int]:
        """The numbers of steps, each once, fewest first."""
        return sorted(set(self.steps))


class BaselinesResult(Strict):
    """`baselines`: how many rows there are."""

    samples: int
    baselines: int
    features: str


class EvaluationResult(Strict):
    """The student in its fewest steps. `protocol`: what the protocols of all values have in common."""

    samples: int
    features: str
    fd_infinite: float
    kid: float
    protocol: dict[str, bool | int | float | str]

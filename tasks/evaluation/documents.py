"""The documents of an evaluation, as pydantic models: evaluation.json, baselines.json, metrics.json. No torch here.

Whoever reads one of these files reads it by these models. They say `format`: a file of another format is refused with
what to do about it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field, model_serializer

from fewstep.diffusion.guidance import SampledScales
from fewstep.metrics.protocol import ClassFigures, FrameFigures, Protocol, Sampling, StoredValue, Value, restore
from fewstep.util.config import Strict, parse
from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.plain_data import NotPlain, from_json

FORMAT = 1
EVALUATION, BASELINES, HEADLINE = "evaluation.json", "baselines.json", "metrics.json"
Document = TypeVar("Document", bound=Strict)


class Measured(Strict):
    """The values of one set of samples by metric, their figures by class (empty without classes) and by frame (of
    videos)."""

    subject: str
    values: dict[str, StoredValue]
    classes: tuple[ClassFigures, ...] = ()
    frames: tuple[FrameFigures, ...] = Field(default=(), exclude_if=lambda frames: not frames)

    def value(self, metric: str) -> float | None:
        """The number alone; None where the metric was not measured."""
        return self.values[metric].value if metric in self.values else None


class StudentRow(Measured):
    """The student with one number of steps. `evaluations`: network evaluations per sample."""

    steps: int
    evaluations: int
    sampling: Sampling


class SolverRow(Measured):
    """The teacher under one training-free solver at one cost.

    Attributes:
        asked: the counts of network evaluations in the settings that this row stands for.
        teacher: whether this row stands for the teacher.
        note: why there are no values; left out of JSON where there are.
        drawn_as: name of the row whose samples these are, as both solvers are the same in so many steps; left out of
            JSON where they are this row's own.
    """

    solver: str
    evaluations: int
    steps: int
    asked: tuple[int, ...]
    teacher: bool
    sampling: Sampling
    note: str | None = None
    drawn_as: str | None = None

    @property
    def name(self) -> str:
        """`SOLVER-EVALUATIONS`, as arrays and costs are named."""
        return baseline_name(self.solver, self.evaluations)

    @model_serializer(mode="wrap")
    def _without_none(self, serialise) -> dict:
        left_out = ("note", "drawn_as")
        return {name: value for name, value in serialise(self).items() if name not in left_out or value is not None}


class Equality(Strict):
    """The network evaluations at which a solver's Fréchet distance equals the student's, with its 95 % set; None where
    that lies outside the counts that were `tried` (fewest, most)."""

    evaluations: float | None
    low: float | None
    high: float | None
    tried: tuple[int, int]


class Comparison(Strict):
    """The student with one number of steps against solvers and teacher.

    Attributes:
        solver: the best training-free solver at equal network evaluations, else at the nearest lower count; None
            without one. `evaluations` is its count, and the ratios and the paired difference are of student to solver.
        fd_excess, kid_excess: the student's distance minus the floor's; `…_teacher`: the teacher's.
        equals: by solver, the setting whose Fréchet distance the student's equals.
        equals_solver: the solver that needs the fewest evaluations for it; None where no solver reaches it.
    """

    solver: str | None = None
    evaluations: int | None = None
    fd_ratio: float | None = None
    kid_ratio: float | None = None
    kid_difference: float | None = None
    kid_difference_error: float | None = None
    fd_excess: float | None = None
    fd_excess_teacher: float | None = None
    kid_excess: float | None = None
    kid_excess_teacher: float | None = None
    equals: dict[str, Equality] = {}
    equals_solver: str | None = None
    equals_evaluations: float | None = None


class Baselines(Strict):
    """baselines.json: the teacher under training-free solvers, and the reference against more of its kind (`floor`).

    Attributes:
        features: name of the extractor.
        reference: number of reference images.
        num_classes: of the teacher; 0 if it takes no class.
        protocols: by digest, of every value.
        prompts: texts that samples were asked for, by their row; empty for models of classes.
        drawn: what the reference images are, in words, where the teacher drew them; empty for real ones.
        medium: what a sample is, and rate: frames, or numbers of a sound, per second.
    """

    format: Literal[1] = FORMAT
    guidance: SampledScales
    features: str
    reference: int
    num_classes: int
    floor: Measured
    rows: tuple[SolverRow, ...]
    protocols: dict[str, Protocol]
    prompts: dict[str, str] = Field(default={}, exclude_if=lambda prompts: not prompts)
    drawn: str = Field(default="", exclude_if=lambda drawn: not drawn)
    medium: Literal["images", "videos", "sound"] = Field(default="images", exclude_if=lambda medium: medium == "images")
    rate: float = Field(default=0.0, exclude_if=lambda rate: not rate)

    @property
    def teacher(self) -> SolverRow:
        """The row that stands for the teacher."""
        return next(row for row in self.rows if row.teacher)

    @property
    def solvers(self) -> list[str]:
        """Names of the solvers in order."""
        return list(dict.fromkeys(row.solver for row in self.rows))

    def row(self, solver: str, evaluations: int) -> SolverRow:
        """Raises StopIteration when there is none."""
        return next(row for row in self.rows if (row.solver, row.evaluations) == (solver, evaluations))

    def restored(self, row: Measured) -> dict[str, Value]:
        """The row's values with their protocols."""
        sampling = row.sampling if isinstance(row, StudentRow | SolverRow) else None
        return restore(row.values, self.protocols, row.subject, sampling)


class Evaluation(Baselines):
    """evaluation.json: the baselines with the student beside them.

    Attributes:
        student: one row per number of steps, fewest first.
        comparisons: by number of steps.
        samples: of every model.
        notes: what a reader should know, as sentences.
    """

    student: tuple[StudentRow, ...]
    comparisons: dict[str, Comparison]
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> StudentRow:
        """The student in its fewest steps."""
        return self.student[0]

    def comparison(self, row: StudentRow) -> Comparison:
        return self.comparisons[str(row.steps)]


class Headline(Strict):
    """metrics.json: plain numbers that `dvc metrics show` and the registry's floors read; evaluation.json has them in
    full, with the interval and the number of samples of every value.

    It is kept with registered versions, also of older code: what one lacks is empty here, and what else it has is
    ignored.

    Attributes:
        measured: what the protocols of all values have in common.
        protocols: digest of each metric's own protocol; `protocol`: that of the Fréchet distance.
        student, teacher, solver: by number of steps or network evaluations, figures by metric; a solver's with its
            `name` and `evaluations`. `real`: of real images; `redrawn`: of other samples of the teacher, where its
            samples are the reference.
        comparison: by number of steps, figures of `Comparison`.
        floors: the figures that `register.floors` bounds; None for what was not measured.
        drawn: as Baselines has it.
    """

    model_config = ConfigDict(extra="ignore")

    measured: dict[str, bool | int | float | str] = {}
    protocols: dict[str, str] = {}
    features: str = ""
    samples: int = 0
    reference: int = 0
    protocol: str = ""
    student: dict[str, dict[str, float | None]] = {}
    teacher: dict[str, dict[str, float]] = {}
    solver: dict[str, dict[str, int | float | str]] = {}
    real: dict[str, float] = {}
    redrawn: dict[str, float] = Field(default={}, exclude_if=lambda redrawn: not redrawn)
    drawn: str = Field(default="", exclude_if=lambda drawn: not drawn)
    comparison: dict[str, dict[str, float]] = {}
    floors: dict[str, float | None] = {}


def baseline_name(solver: str, evaluations: int) -> str:
    """`SOLVER-EVALUATIONS`."""
    return f"{solver}-{evaluations}"


def to_json(document: Strict) -> str:
    """The text of a file. Equal documents give equal bytes."""
    content = document.model_dump(mode="json", by_alias=True)
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read(model: type[Document], path: Path) -> Document:
    """The document in the file `path`.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptData: it is damaged or of another format; the message says what to do.
    """
    try:
        content = from_json(Path(path).read_bytes())
    except NotPlain as error:
        raise CorruptData(f"{path}: not readable as JSON ({error})") from None
    return parsed(model, content, str(path))


def parsed(model: type[Document], content: Mapping, source: str) -> Document:
    """`content` of a JSON document as `model`; `source` names it in messages. Raises CorruptData as `read` does."""
    found = content.get("format", FORMAT) if isinstance(content, Mapping) else FORMAT
    if found != FORMAT:
        raise CorruptData(f"{source}: format {found}, this version of fewstep reads format {FORMAT}",
                          hint="read it with the version that wrote it, or make it again by `fewstep run`")
    try:
        return parse(model, content, source)
    except SettingsError as error:
        raise CorruptData(str(error).splitlines()[0], hint="remove the file; `fewstep run` makes it again") from None

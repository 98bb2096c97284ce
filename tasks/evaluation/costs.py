"""The files data/cost/STAGE.json: durations, latency and memory, which never repeat and enter no key. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fewstep.util.errors import CorruptData


class Timing(BaseModel):
    """How long sampling takes: one image alone (median and 95 % quantile), and images per second in batches."""

    model_config = ConfigDict(frozen=True)

    latency_ms: float
    latency_ms_p95: float | None = None
    images_per_second: float | None = None
    repeats: int | None = None
    batch: int | None = None


class TeacherTiming(Timing):
    """The row that stands for the teacher."""

    solver: str
    evaluations: int


class StageCost(BaseModel):
    """data/cost/STAGE.json: what never repeats. Every stage has `seconds` and `key`; others have what they measure.

    Attributes:
        student: by number of steps, of the student (evaluate).
        teacher, solvers: of the teacher and, by `SolverRow.name`, of every solver (baselines).
        parameters: of the network; `peak_memory_mb`: of the process, in MiB.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    seconds: float | None = None
    key: str | None = None
    student: dict[str, Timing] = {}
    teacher: TeacherTiming | None = None
    solvers: dict[str, Timing] = {}
    parameters: int | None = None
    peak_memory_mb: float | None = None

    @property
    def rounds(self) -> dict[str, float]:
        """Seconds of each round of distill."""
        parts = {name: part.get("seconds") for name, part in (self.model_extra or {}).items() if isinstance(part, dict)}
        return {name: seconds for name, seconds in parts.items() if isinstance(seconds, float | int)}


def read_costs(folder: Path) -> dict[str, StageCost]:
    """The costs by stage in a folder of STAGE.json; empty without the folder. Raises CorruptData for a damaged file."""
    costs = {}
    for path in sorted(folder.glob("*.json")):
        try:
            costs[path.stem] = StageCost.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise CorruptData(f"{path}: not readable as costs ({error.errors()[0]['msg']}); remove the file") from None
    return costs


def cost_of(costs: Mapping[str, StageCost], stage: str) -> StageCost:
    """The costs of a stage; one that says nothing where they were not measured."""
    return costs.get(stage, StageCost())

"""The plain numbers of an evaluation: metrics.json, quality.csv and the curves. No torch here."""

import csv
import io

from fewstep.metrics.metric_names import MOTION
from tasks.evaluation.documents import Comparison, Evaluation, Headline, Measured, SolverRow, StudentRow

COMPARED = ("fd_ratio", "kid_ratio", "kid_difference", "kid_difference_error", "fd_excess", "fd_excess_teacher",
            "equals_evaluations")  # fmt: skip
COMMON = ("samples", "seed", "noise", "conditions", "reference", "reference_samples", "reference_digest",
          "reference_statistics", "features", "features_digest", "dimensions", "resized", "antialiased",
          "value_range", "clipped", "quantised")  # fmt: skip
"""Fields of a protocol that all metrics of one evaluation share."""
COLUMNS = ("fd_infinite", "kid", "mmd", "precision", "recall", "density", "coverage", "diversity", "class_accuracy",
           "agreement_rms")  # fmt: skip
RETRIEVAL = ("retrieval", "retrieval@clip", "retrieval@clap")
ALIGNMENT = ("text_alignment", "text_alignment@clip", "text_alignment@clap")
"""What compares samples with their texts, of which the first that was measured counts."""
TEXT_COLUMNS = tuple(name for pair in zip(RETRIEVAL, ALIGNMENT, strict=True) for name in pair)
SHOWN = ("fd_infinite", "kid", "mmd", "precision", "recall", "density", "coverage", "diversity", "class_accuracy",
         "agreement_rms", "nearest_ratio", "nearest_ratio_features", *TEXT_COLUMNS, f"fd_infinite@{MOTION}",
         f"kid@{MOTION}")  # fmt: skip
STUDENT = "student"


def headline(evaluation: Evaluation) -> Headline:
    """metrics.json of an evaluation."""
    first, teacher = evaluation.first, evaluation.teacher
    protocol = first.values["fd_infinite"].protocol
    measured = evaluation.protocols[protocol]
    return Headline(
        measured={name: getattr(measured, name) for name in COMMON},
        protocols={name: first.values[name].protocol for name in SHOWN if name in first.values},
        features=evaluation.features,
        samples=evaluation.samples,
        reference=evaluation.reference,
        protocol=protocol,
        student={str(row.steps): _figures(row) for row in evaluation.student},
        teacher={str(teacher.evaluations): _figures(teacher)},
        solver={steps: _named(evaluation.row(found.solver, found.evaluations))
                for steps, found in evaluation.comparisons.items() if found.solver},
        real={} if evaluation.drawn else _figures(evaluation.floor),
        redrawn=_figures(evaluation.floor) if evaluation.drawn else {},
        drawn=evaluation.drawn,
        comparison={steps: _compared(found) for steps, found in evaluation.comparisons.items()},
        floors={"distance_ratio": evaluation.comparison(first).fd_ratio, "recall": first.value("recall"),
                "copies": first.value("nearest_share"), **_of_conditions(evaluation)},
    )  # fmt: skip


def _of_conditions(evaluation: Evaluation) -> dict[str, float | None]:
    """How far a student does what it is asked for: by class, or by prompt."""
    first = evaluation.first
    if not evaluation.prompts:
        return {"class_accuracy": first.value("class_accuracy")}
    return {name: next((first.value(metric) for metric in metrics if metric in first.values), None)
            for name, metrics in (("retrieval", RETRIEVAL), ("text_alignment", ALIGNMENT))}  # fmt: skip


def models(evaluation: Evaluation) -> list[str]:
    """The student and every solver, as curves are named."""
    return [STUDENT, *evaluation.solvers]


def quality_table(evaluation: Evaluation, model: str | None = None) -> str:
    """CSV: quality over network evaluations, one line per model and count; of one model, as DVC draws curves."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = (*COLUMNS, *(name for name in TEXT_COLUMNS if name in evaluation.first.values))
    writer.writerow(["model", "evaluations", *shown])
    rows: list[tuple[str, StudentRow | SolverRow]] = [(STUDENT, row) for row in evaluation.student]
    rows += [(row.solver, row) for row in evaluation.rows]
    for name, row in rows:
        if model in (None, name):
            figures = [row.value(column) for column in shown]
            writer.writerow([name, row.evaluations, *("" if x is None else f"{x:.6g}" for x in figures)])
    return text.getvalue()


def _figures(row: Measured) -> dict[str, float]:
    return {name: row.values[name].value for name in SHOWN if name in row.values}


def _named(row: SolverRow) -> dict[str, int | float | str]:
    return {"name": row.solver, "evaluations": row.evaluations, **_figures(row)}


def _compared(found: Comparison) -> dict[str, float]:
    figures = {name: getattr(found, name) for name in COMPARED}
    return {name: value for name, value in figures.items() if value is not None}

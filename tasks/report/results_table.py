"""The result in one look: a table for the terminal, the same in Markdown, and a sentence that says what it means.

Reads data/evaluation/evaluation.json (and the costs, where there are any). No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.metrics.metric_names import counted, solver_name
from fewstep.metrics.protocol import StoredValue
from fewstep.util.errors import NotAvailable
from tasks.evaluation.costs import StageCost, cost_of, read_costs
from tasks.evaluation.documents import EVALUATION, Comparison, Evaluation, StudentRow, read

_WIDE = 80
_ABSENT = "–"


@dataclass(frozen=True)
class Line:
    """One row of the table: `values` by metric, empty where there is nothing to show; `rate` in images per second."""

    section: str
    model: str
    evaluations: str
    values: Mapping[str, StoredValue] = field(default_factory=dict)
    rate: float | None = None


@dataclass(frozen=True)
class Result:
    """An evaluation with the costs by stage. In a rich console it is the table in as many columns as fit, and the
    verdict below."""

    evaluation: Evaluation
    costs: Mapping[str, StageCost]

    def __rich_console__(self, console, options):
        yield table_of(self, options.max_width)
        yield ""
        yield verdict(self)
        yield from self.evaluation.notes


def load(data: Path) -> Result:
    """What was evaluated last, below the `data` folder.

    Raises:
        NotAvailable: nothing was evaluated yet.
        CorruptData: a file is damaged or of another format.
    """
    path = Path(data) / "evaluation" / EVALUATION
    if not path.is_file():
        raise NotAvailable(f"{path}: nothing was evaluated yet", hint="`fewstep run` trains and evaluates a student")
    return Result(read(Evaluation, path), read_costs(Path(data) / "cost"))


def table(root: Path) -> Result:
    """What was evaluated last in the checkout at `root`, ready to print. Raises as `load` does."""
    return load(Path(root) / "data")


def lines(result: Result) -> list[Line]:
    """The rows of the table in order: student, solvers at the student's costs, teacher at all costs, floor."""
    evaluation, teacher = result.evaluation, result.evaluation.teacher
    timed = cost_of(result.costs, "evaluate").student
    rows = []
    for row in evaluation.student:
        timing = timed.get(str(row.steps))
        rows.append(Line("student", "student", str(row.evaluations), row.values, timing and timing.images_per_second))
    counts = [row.evaluations for row in evaluation.student]
    for solver in evaluation.solvers:
        if solver != teacher.solver:
            rows += _at_counts(evaluation, solver, counts)
    timing = cost_of(result.costs, "baselines").teacher
    of_teacher = [row for row in evaluation.rows if row.solver == teacher.solver]
    for row in sorted(of_teacher, key=lambda row: row.evaluations):
        rate = timing.images_per_second if timing and row.teacher else None
        rows.append(Line("teacher", f"teacher ({solver_name(row.solver)})", str(row.evaluations), row.values, rate))
    return [*rows, Line("floor", evaluation.floor.subject, _ABSENT, evaluation.floor.values)]


def _at_counts(evaluation: Evaluation, solver: str, counts: list[int]) -> list[Line]:
    """The solver at each count; where it has no such count, at the nearest lower one under its true number, once."""
    values = {row.evaluations: row.values for row in evaluation.rows if row.solver == solver}
    shown: set[int] = set()
    rows = []
    for count in counts:
        nearest = max((n for n in values if n <= count), default=None)
        if nearest is None or nearest in shown:
            rows.append(Line("solver", solver_name(solver), str(count)))
        else:
            shown.add(nearest)
            rows.append(Line("solver", solver_name(solver), str(nearest), values[nearest]))
    return rows


def table_of(result: Result, width: int = _WIDE):
    """A rich table for a terminal of `width` columns; narrow ones show fewer columns, never cut ones."""
    from rich.table import Table  # only to print

    wide, evaluation = width >= _WIDE, result.evaluation
    headings = _headings(evaluation, wide)
    made = Table(box=None, padding=(0, 1), pad_edge=False, title_justify="left", title_style="dim")
    made.title = (f"{evaluation.samples} samples, {evaluation.reference} {_reference(evaluation)}, "
                  f"FD in {evaluation.features}")
    made.add_column("model", no_wrap=True)
    for heading in headings:
        made.add_column(heading, justify="right", no_wrap=True)
    section = ""
    for line in lines(result):
        if section and line.section != section:
            made.add_row(*[""] * (len(headings) + 1))
        section = line.section
        model = line.model if wide else line.model.split(" (")[0]
        made.add_row(model, *_cells(evaluation, line, wide), style="bold" if section == "student" else "")
    return made


def markdown(result: Result) -> str:
    """The verdict and the table in Markdown, with intervals and what the columns mean."""
    evaluation = result.evaluation
    head = ["model", *_headings(evaluation, True)]
    rows = [[line.model, *_cells(evaluation, line, True)] for line in lines(result)]
    aligned = [":--", *["--:"] * (len(head) - 1)]
    body = "\n".join("| " + " | ".join(row) + " |" for row in [head, aligned, *rows])
    return f"{verdict(result)}\n\n{body}\n\n{legend(evaluation)}\n"


def legend(evaluation: Evaluation) -> str:
    """What the columns mean, in two or three sentences."""
    text = (
        f"eval.: network evaluations per sample. FD: Fréchet distance in {evaluation.features} features of the "
        f"pipeline's own, extrapolated to infinitely many samples (not an FID); KID: unbiased, in thousandths; both "
        f"with half of their 95 % interval, from {evaluation.samples} samples against {evaluation.reference} "
        f"{_reference(evaluation)}. "
    )
    if "class_accuracy" in evaluation.first.values:
        text += "class: share recognised as the class asked for. "
    if "retrieval" in evaluation.first.values:
        text += "prompt: share of samples whose prompt is found among 64. "
    text += "P/R: precision and recall in per cent."
    return " ".join([text, *evaluation.notes])


def _reference(evaluation: Evaluation) -> str:
    return "samples of the teacher" if evaluation.drawn else "test images"


def verdict(result: Result) -> str:
    """What the student reaches in its fewest steps, beside what else costs as much and what is possible."""
    return f"{reached(result.evaluation)}. {first_equivalence(result)}."


def reached(evaluation: Evaluation) -> str:
    """The first sentence of the verdict: distances of student, solver, teacher and floor."""
    row, teacher = evaluation.first, evaluation.teacher
    found = evaluation.comparison(row)
    text = f"In {counted(row.steps, 'step')} the student reaches a Fréchet distance of {row.value('fd_infinite'):.3g}"
    if found.solver:
        best = evaluation.row(found.solver, found.evaluations)
        text += (f"; the best training-free solver with {counted(found.evaluations, 'network evaluation')} "
                 f"({solver_name(found.solver)}) has {best.value('fd_infinite'):.3g}")  # fmt: skip
        if found.fd_ratio and found.fd_ratio > 0:
            ratio = 1 / found.fd_ratio
            text += f", {ratio:.1f} times as much" if ratio >= 1 else f", only {ratio:.2f} times as much"
    return text + (f"; the teacher with {teacher.evaluations} has {teacher.value('fd_infinite'):.3g}, "
                   f"{evaluation.floor.subject} {evaluation.floor.value('fd_infinite'):.3g}")  # fmt: skip


def first_equivalence(result: Result) -> str:
    """`equivalence` of the student in its fewest steps."""
    row = result.evaluation.first
    return equivalence(row, result.evaluation.comparison(row), result.costs)


def equivalence(row: StudentRow, found: Comparison, costs: Mapping[str, StageCost]) -> str:
    """`1 step = DPM-Solver++ at 14 evaluations (95 %: 9.1 to 16), 11.8 times faster`: the training-free setting that a
    student's row equals in Fréchet distance, by interpolation, and what it costs in comparison."""
    if not found.equals_solver:
        return f"No training-free setting that was tried is as good as {counted(row.steps, 'step')}"
    equal = found.equals[found.equals_solver]
    fewest, most = equal.tried
    low = f"{equal.low:.2g}" if equal.low else f"fewer than {fewest}" if fewest > 1 else "1"
    high = f"{equal.high:.2g}" if equal.high else f"{most} or more"
    at = f"{equal.evaluations:.2g}"
    noun = "evaluation" if at == "1" else "evaluations"
    return (f"{counted(row.steps, 'step')} = {solver_name(found.equals_solver)} at {at} {noun} "
            f"(95 %: {low} to {high}){_faster(row, found, costs)}")  # fmt: skip


def _faster(row: StudentRow, found: Comparison, costs: Mapping[str, StageCost]) -> str:
    """How much faster one image is, where times were measured; else how much fewer evaluations it takes."""
    ratio = speedup(row, found, costs)
    if ratio is not None:
        if 0.95 <= ratio <= 1.05:
            return ", as fast"
        return f", {ratio:.3g} times faster" if ratio > 1 else f", {1 / ratio:.3g} times slower"
    times = found.equals_evaluations / row.evaluations
    return f", {times:.3g} times cheaper" if times > 1 else ""


def speedup(row: StudentRow, found: Comparison, costs: Mapping[str, StageCost]) -> float | None:
    """Time for one image of the training-free setting that a student's row equals (between two measured counts, in
    proportion) over the student's; None where either was not measured or nothing equals it."""
    timing, at = cost_of(costs, "evaluate").student.get(str(row.steps)), found.equals_evaluations
    timed = {int(name.rpartition("-")[2]): entry.latency_ms
             for name, entry in cost_of(costs, "baselines").solvers.items()
             if name.rpartition("-")[0] == found.equals_solver}  # fmt: skip
    below = max((n for n in timed if at is not None and n <= at), default=None)
    above = min((n for n in timed if at is not None and n >= at), default=None)
    if not timing or not timing.latency_ms or below is None or above is None:
        return None
    share = (at - below) / (above - below) if above > below else 0.0
    return (timed[below] + share * (timed[above] - timed[below])) / timing.latency_ms


_ASKED = {"class": "class_accuracy", "prompt": "retrieval"}


def _headings(evaluation: Evaluation, wide: bool) -> list[str]:
    classes = [title for title, metric in _ASKED.items() if metric in evaluation.first.values]
    return ["eval.", "FD", "KID·10³", *classes, *(["P/R", "img/s"] if wide else [])]


def _cells(evaluation: Evaluation, line: Line, wide: bool) -> list[str]:
    cells = [line.evaluations, _with_half(line.values.get("fd_infinite"), 3, 1),
             _with_half(line.values.get("kid"), 1, 1000)]  # fmt: skip
    for title, metric in _ASKED.items():
        if title in _headings(evaluation, wide):
            cells.append(_percent(line.values.get(metric)) + ("" if not line.values else " %"))
    if wide:
        both = [_percent(line.values.get(name)) for name in ("precision", "recall")]
        cells.append("/".join(both) if line.values else _ABSENT)
        cells.append(_ABSENT if line.rate is None else f"{line.rate:.3g}" if line.rate < 1000 else f"{line.rate:.0f}")
    return cells


def _with_half(entry: StoredValue | None, digits: int, scale: float) -> str:
    """`0.096 ±0.044`: the value and half of its interval."""
    if entry is None:
        return _ABSENT
    low, high = entry.interval
    return f"{scale * entry.value:.{digits}f} ±{scale * (high - low) / 2:.{digits}f}"


def _percent(entry: StoredValue | None) -> str:
    return _ABSENT if entry is None else f"{100 * entry.value:.0f}"

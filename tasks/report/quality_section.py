"""Quality against network evaluations and against milliseconds, students and training-free solvers."""

from __future__ import annotations

from html import escape

from fewstep.metrics.metric_names import MOTION, counted, solver_name
from fewstep.metrics.protocol import StoredValue
from tasks.evaluation.costs import Timing
from tasks.evaluation.documents import SolverRow, StudentRow
from tasks.report.formatting import BY_NAME, COUNTED, Metric, measured, number, tabs, teachers, title, told
from tasks.report.report_data import Material
from tasks.report.results_table import first_equivalence
from tasks.report.svg_charts import Axis, Band, Bracket, Point, Series, chart

PLOTTED = ("fd_infinite", "kid", f"fd_infinite@{MOTION}", "recall", "precision", "class_accuracy", "retrieval",
           "text_alignment", "agreement_rms")  # fmt: skip


def quality(materials: list[Material]) -> str:
    """Quality against network evaluations and against milliseconds, students and solvers, a plot per metric."""
    panels = []
    document = materials[0].document
    known = {metric.name: metric for metric in measured(document)}
    for name in PLOTTED:
        metric = known.get(name)
        if metric is None:
            continue
        both = [_quality(materials, metric, kind) for kind in ("evaluations", "ms")]
        charts = "".join(f'<figure class="plot" data-metric="{name}" data-x="{kind}">{drawn}</figure>'
                         for kind, drawn in zip(("evaluations", "ms"), both, strict=True) if drawn)  # fmt: skip
        printed = name in ("fd_infinite", "kid")
        panels.append((escape(title(metric, document)), f'<div class="pair">{charts}</div>', printed))
    return _legend(materials) + tabs("quality", panels)


def _quality(materials: list[Material], metric: Metric, kind: str) -> str:
    series = [_student(material, metric, kind, i, len(materials)) for i, material in enumerate(materials)]
    series += _solvers(materials, metric, kind)
    series = [one for one in series if one.points]
    document = materials[0].document
    if not series or (kind == "ms" and not any(one.strong for one in series)):
        return ""
    floor, bands = document.floor.values.get(metric.name), []
    if floor:
        bands = [Band(f"{document.floor.subject}: {number(floor.value, metric)}", *_scaled(floor, metric))]
    brackets = []
    if metric.name == "fd_infinite" and kind == "evaluations" and len(materials) == 1:
        brackets = _equal(materials[0])
    x = Axis("network evaluations per sample", "counts") if kind == "evaluations" else Axis(
        f"ms for one {COUNTED[document.medium][0]}", "log")
    name = title(metric, document)
    better = {"lower": "lower is better", "higher": "higher is better", "one": "1 is right"}[metric.better]
    return chart(series, x, Axis(f"{name} ({better})", metric.axis), bands=bands, brackets=brackets,
                 label=f"{name} against {x.title}")  # fmt: skip


def _equal(material: Material) -> list[Bracket]:
    row = material.document.first
    found = material.document.comparison(row)
    equal = found.equals.get(found.equals_solver)
    if equal is None or equal.evaluations <= row.evaluations:
        return []
    return [Bracket(row.values["fd_infinite"].value, row.evaluations, equal.evaluations, equal.low, equal.high,
                    first_equivalence(material.result))]  # fmt: skip


def _student(material: Material, metric: Metric, kind: str, i: int, of: int) -> Series:
    timed = material.cost_of("evaluate").student
    name, points = "student" if of == 1 else material.label, []
    for row in material.document.student:
        x = _place(row, timed.get(str(row.steps)), kind)
        if x and metric.name in row.values:
            points.append(_point(row, metric, x, f"{name}, {counted(row.steps, 'step')}"))
    return Series(name, points, f"m{i % 6}", 0, strong=True)


def _solvers(materials: list[Material], metric: Metric, kind: str) -> list[Series]:
    found = []
    for i, material in enumerate(teachers(materials)):
        timed = material.cost_of("baselines").solvers
        for j, solver in enumerate(material.document.solvers):
            points = []
            for row in sorted(material.document.rows, key=lambda row: row.evaluations):
                x = _place(row, timed.get(row.name), kind)
                if row.solver == solver and metric.name in row.values and x:
                    points.append(_point(row, metric, x, row.subject))
            name = solver_name(solver) + (f" ({material.label})" if i else "")
            found.append(Series(name, points, f"s{j % 5}", 1 + j))
    return found


def _place(row: StudentRow | SolverRow, timing: Timing | None, kind: str) -> float | None:
    """Where a row stands on the x axis; None where its time was not measured."""
    return row.evaluations if kind == "evaluations" else timing and timing.latency_ms


def _point(row: StudentRow | SolverRow, metric: Metric, x: float, subject: str) -> Point:
    entry = row.values[metric.name]
    return Point(x, *_scaled(entry, metric), f"{subject}: {told(entry, metric)}")


def _scaled(entry: StoredValue, metric: Metric) -> tuple[float, float | None, float | None]:
    """(value, low, high) in the metric's unit."""
    low, high = (None, None) if entry.interval is None else (metric.scale * bound for bound in entry.interval)
    return metric.scale * entry.value, low, high


def _legend(materials: list[Material]) -> str:
    metric, entries = BY_NAME["fd_infinite"], []
    for series in [*(_student(one, metric, "evaluations", i, len(materials)) for i, one in enumerate(materials)),
                   *_solvers(materials, metric, "evaluations")]:  # fmt: skip
        entries.append(f'<button type="button" class="key {series.tone}" data-hide="{escape(series.name, quote=True)}">'
                       f'<i class="swatch {series.tone}"></i>{escape(series.name)}</button>')  # fmt: skip
    floor = materials[0].document.floor.subject
    return f'<div class="legend">{"".join(entries)}<span class="dim">{floor}: line, band; bars: 95 %</span></div>'

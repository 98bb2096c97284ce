"""Quality against network evaluations and against milliseconds, students and training-free solvers."""

from __future__ import annotations

from html import escape

from fewstep.metrics.metric_names import counted, solver_name
from tasks.report import results_table
from tasks.report.formatting import BY_NAME, Metric, frechet_name, number, tabs, teachers, told
from tasks.report.report_data import Material
from tasks.report.svg_charts import Axis, Band, Bracket, Point, Series, chart

PLOTTED = ("fd_infinite", "kid", "recall", "precision", "class_accuracy", "agreement_rms")


def quality(materials: list[Material]) -> str:
    """Quality against network evaluations and against milliseconds, students and solvers, a plot per metric."""
    panels = []
    known = materials[0].document["student"][0]["values"]
    for name in PLOTTED:
        if name not in known:
            continue
        metric = BY_NAME[name]
        both = [_quality(materials, metric, kind) for kind in ("evaluations", "ms")]
        charts = "".join(f'<figure class="plot" data-metric="{name}" data-x="{kind}">{drawn}</figure>'
                         for kind, drawn in zip(("evaluations", "ms"), both, strict=True) if drawn)  # fmt: skip
        title = metric.title if name != "fd_infinite" else frechet_name(materials[0].document)
        panels.append((escape(title), f'<div class="pair">{charts}</div>', name in ("fd_infinite", "kid")))
    return _legend(materials) + tabs("quality", panels)


def _quality(materials: list[Material], metric: Metric, kind: str) -> str:
    series = [_student(material, metric, kind, i, len(materials)) for i, material in enumerate(materials)]
    series += _solvers(materials, metric, kind)
    series = [one for one in series if one.points]
    document = materials[0].document
    if not series or (kind == "ms" and not any(one.strong for one in series)):
        return ""
    floor, bands = document["floor"]["values"].get(metric.name), []
    if floor:
        low, high = floor["interval"] or (None, None)
        scaled = [None if x is None else metric.scale * x for x in (low, high)]
        bands = [Band(f"real images: {number(floor['value'], metric)}", metric.scale * floor["value"], *scaled)]
    brackets = []
    if metric.name == "fd_infinite" and kind == "evaluations" and len(materials) == 1:
        brackets = _equal(materials[0])
    x = Axis("network evaluations per sample", "counts") if kind == "evaluations" else Axis("ms for one image", "log")
    title = metric.title if metric.name != "fd_infinite" else frechet_name(document)
    better = {"lower": "lower is better", "higher": "higher is better", "one": "1 is right"}[metric.better]
    return chart(series, x, Axis(f"{title} ({better})", metric.axis), bands=bands, brackets=brackets,
                 label=f"{title} against {x.title}")  # fmt: skip


def _equal(material: Material) -> list[Bracket]:
    row = material.document["student"][0]
    found = material.document["comparisons"][str(row["steps"])]
    one = (found.get("equals") or {}).get(found.get("equals_solver"))
    if not one or one["evaluations"] <= row["evaluations"]:
        return []
    return [Bracket(row["values"]["fd_infinite"]["value"], row["evaluations"], one["evaluations"], one["low"],
                    one["high"], results_table.equivalence(material.priced, row))]  # fmt: skip


def _student(material: Material, metric: Metric, kind: str, i: int, of: int) -> Series:
    timed = material.cost.get("evaluate", {}).get("student", {})
    name, points = "student" if of == 1 else material.label, []
    for row in material.document["student"]:
        x = row["evaluations"] if kind == "evaluations" else timed.get(str(row["steps"]), {}).get("latency_ms")
        if x and metric.name in row["values"]:
            points.append(_point(row, metric, x, f"{name}, {counted(row['steps'], 'step')}"))
    return Series(name, points, f"m{i % 6}", 0, strong=True)


def _solvers(materials: list[Material], metric: Metric, kind: str) -> list[Series]:
    found = []
    for i, material in enumerate(teachers(materials)):
        timed = material.cost.get("baselines", {}).get("solvers", {})
        for j, solver in enumerate(dict.fromkeys(row["solver"] for row in material.document["rows"])):
            points = []
            for row in sorted(material.document["rows"], key=lambda row: row["evaluations"]):
                latency = timed.get(f"{row['solver']}-{row['evaluations']}", {}).get("latency_ms")
                x = row["evaluations"] if kind == "evaluations" else latency
                if row["solver"] == solver and metric.name in row["values"] and x:
                    points.append(_point(row, metric, x, row["subject"]))
            name = solver_name(solver) + (f" ({material.label})" if i else "")
            found.append(Series(name, points, f"s{j % 5}", 1 + j))
    return found


def _point(row: dict, metric: Metric, x: float, subject: str) -> Point:
    entry = row["values"][metric.name]
    low, high = entry["interval"] or (None, None)
    scaled = [None if value is None else metric.scale * value for value in (low, high)]
    return Point(x, metric.scale * entry["value"], *scaled, f"{subject}: {told(entry, metric)}")


def _legend(materials: list[Material]) -> str:
    metric, entries = BY_NAME["fd_infinite"], []
    for series in [*(_student(one, metric, "evaluations", i, len(materials)) for i, one in enumerate(materials)),
                   *_solvers(materials, metric, "evaluations")]:  # fmt: skip
        entries.append(f'<button type="button" class="key {series.tone}" data-hide="{escape(series.name, quote=True)}">'
                       f'<i class="swatch {series.tone}"></i>{escape(series.name)}</button>')  # fmt: skip
    return f'<div class="legend">{"".join(entries)}<span class="dim">real images: line, band; bars: 95 %</span></div>'

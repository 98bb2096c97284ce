"""Distance to the reference by frame: how a model's videos hold from their first frame to their last."""

from __future__ import annotations

from fewstep.metrics.metric_names import counted
from tasks.evaluation.documents import Measured
from tasks.report.formatting import BY_NAME, number, teachers
from tasks.report.report_data import Material
from tasks.report.svg_charts import Axis, Point, Series, chart


def frames(materials: list[Material]) -> str:
    """The kernel distance of every frame of students and teacher, and the floor's; nothing for images."""
    series = []
    for i, material in enumerate(materials):
        for row in material.document.student[: 1 if len(materials) > 1 else None]:
            name = material.label if len(materials) > 1 else f"student, {counted(row.steps, 'step')}"
            series.append(_series(row, name, f"m{(i + len(series)) % 6}", strong=True))
    for material in teachers(materials):
        series += [_series(material.document.teacher, "teacher", "s2"),
                   _series(material.document.floor, material.document.floor.subject, "s0")]  # fmt: skip
    series = [one for one in series if one.points]
    if not series:
        return ""
    metric = BY_NAME["mmd"]
    drawn = chart(series, Axis("frame"), Axis(f"{metric.title} (lower is better)"), label=f"{metric.title} by frame")
    legend = "".join(f'<span class="key"><i class="swatch {one.tone}"></i>{one.name}</span>' for one in series)
    return f'<div class="legend">{legend}</div><figure class="plot small">{drawn}</figure>'


def _series(row: Measured, name: str, tone: str, strong: bool = False) -> Series:
    metric, points = BY_NAME["mmd"], []
    for frame in row.frames:
        if frame.mmd is not None:
            low, high = ((None if bound is None else metric.scale * bound) for bound in frame.interval)
            told = f"{name}, frame {frame.frame}: {metric.title} {number(frame.mmd, metric)}, n {frame.n:,}"
            points.append(Point(frame.frame, metric.scale * frame.mmd, low, high, told))
    return Series(name, points, tone, 0, strong)

"""How the student was made and what it costs: training curves by round, times, memory."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from fewstep.metrics.metric_names import counted, solver_name
from tasks.evaluation.costs import StageCost, Timing
from tasks.report.formatting import teachers
from tasks.report.report_data import Material
from tasks.report.svg_charts import Axis, Point, Series, chart


def training(materials: list[Material]) -> str:
    """The figures of the training over images seen, rounds marked in the titles."""
    names = list(dict.fromkeys(name for one in materials for name in one.curves))
    plots = []
    for name in sorted(names, key=lambda name: (name == "learning_rate", name)):
        series = [Series("student" if len(materials) == 1 else one.label, [Point(x, y) for x, y in one.curves[name]],
                         f"m{i % 6}", 0, True) for i, one in enumerate(materials) if name in one.curves]  # fmt: skip
        positive = min(point.y for one in series for point in one.points) > 0
        drawn = chart(series, Axis("images seen"), Axis(name, "log" if positive else "linear"), label=name, marks=False)
        plots.append(f'<figure class="plot small" data-curve="{escape(name, quote=True)}">{drawn}</figure>')
    if not plots:
        return '<p class="dim">No curves: this student was trained without MLflow, or its runs are gone.</p>'
    return _rounds(materials) + f'<div class="pair">{"".join(plots)}</div>'


def _rounds(materials: list[Material]) -> str:
    rows = []
    for material in materials:
        timed, end = material.cost_of("distill").rounds, 0
        for trained in material.rounds:
            end += trained.images
            seconds = timed.get(trained.round)
            turns = ", ".join(f"{role} {count}" for role, count in trained.turns.items())
            rows.append(f"<tr><th>{escape(material.label)}</th><td>{escape(trained.round)}</td>"
                        f"<td>{trained.images:,}</td><td>{end:,}</td><td>{escape(turns)}</td>"
                        f"<td>{'–' if seconds is None else f'{seconds:,.0f} s'}</td></tr>")  # fmt: skip
    if not rows:
        return ""
    return ('<div class="scroll"><table><thead><tr><th></th><th>round</th><th>images</th><th>ends at</th><th>turns</th>'
            f"<th>time</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>")  # fmt: skip


def costs(materials: list[Material]) -> str:
    """What sampling takes, and what making the student took."""
    rows = []
    for material in materials:
        cost = material.cost_of("evaluate")
        for row in material.document.student:
            rows.append(_cost(material.label, counted(row.steps, "step"), row.evaluations,
                              cost.student.get(str(row.steps)), cost))  # fmt: skip
    for material in teachers(materials):
        cost = material.cost_of("baselines")
        timed = cost.teacher
        if timed:
            rows.append(_cost("teacher", solver_name(timed.solver), timed.evaluations, timed, cost))
    head = ("<th>model</th><th></th><th>evaluations</th><th>ms, one image</th><th>95 % of images</th><th>images/s</th>"
            "<th>parameters</th><th>peak memory</th>")  # fmt: skip
    spent = []
    for material in materials:
        parts = [f"{name} {cost.seconds:,.0f} s" for name, cost in material.cost.items() if cost.seconds is not None]
        if parts:
            text = f"Time of the stages, {material.label}: {' · '.join(parts)}"
            spent.append(f"<p class='dim'>{escape(text)}</p>")
    return (f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
            f"{''.join(spent)}")  # fmt: skip


def _cost(label: str, setting: str, evaluations: int, timing: Timing | None, cost: StageCost) -> str:
    """One line: how long sampling takes, and the footprint that the stage measured."""

    def cell(value: float | None, form: Callable[[float], str]) -> str:
        return f"<td>{'–' if value is None else form(value)}</td>"

    return (f"<tr><th>{escape(label)}</th><td>{escape(setting)}</td><td>{evaluations}</td>"
            + cell(timing and timing.latency_ms, "{:.3g}".format)
            + cell(timing and timing.latency_ms_p95, "{:.3g}".format)
            + cell(timing and timing.images_per_second, "{:,.0f}".format) + cell(cost.parameters, "{:,}".format)
            + cell(cost.peak_memory_mb, "{:,.0f} MB".format) + "</tr>")  # fmt: skip

"""Every figure of every model, and the figures by class."""

from __future__ import annotations

from html import escape

from fewstep.metrics.metric_names import solver_name
from fewstep.metrics.protocol import ClassFigures
from tasks.evaluation.costs import Timing
from tasks.evaluation.documents import Measured
from tasks.report.formatting import BY_NAME, Metric, figure, measured, teachers, title, with_interval
from tasks.report.report_data import Material


def everything(materials: list[Material]) -> str:
    """Every model with every figure, its interval and its n."""
    document = materials[0].document
    shown = measured(document)
    head = "".join(f'<th title="{escape(one.explained, quote=True)}">{escape(title(one, document))}</th>'
                   for one in shown)  # fmt: skip
    body = []
    for i, material in enumerate(materials):
        timed = material.cost_of("evaluate").student
        name = "student" if len(materials) == 1 else material.label
        for row in material.document.student:
            body.append(_line(f'<i class="swatch m{i % 6}"></i>{escape(name)}', row, row.evaluations,
                              timed.get(str(row.steps)), shown, "strong"))  # fmt: skip
    for material in teachers(materials):
        timed, solvers = material.cost_of("baselines").solvers, material.document.solvers
        for row in material.document.rows:
            swatch = f'<i class="swatch s{solvers.index(row.solver) % 5}"></i>{escape(solver_name(row.solver))}'
            body.append(_line(swatch + (" (teacher)" if row.teacher else ""), row, row.evaluations,
                              timed.get(row.name), shown, ""))  # fmt: skip
        body.append(_line(material.document.floor.subject, material.document.floor, None, None, shown, "floor"))
    explained = "".join(f"<dt>{escape(title(one, document))}</dt><dd>{escape(one.explained)}</dd>" for one in shown)
    return (f'<div class="scroll"><table class="wide"><thead><tr><th>model</th><th>eval.</th><th>ms</th>{head}</tr>'
            f"</thead><tbody>{''.join(body)}</tbody></table></div><details><summary>What the columns mean</summary>"
            f'<dl class="terms">{explained}</dl></details>')  # fmt: skip


def _line(model: str, row: Measured, evaluations: int | None, timing: Timing | None, shown: list[Metric],
          kind: str) -> str:  # fmt: skip
    cells = []
    for metric in shown:
        entry = row.values.get(metric.name)
        n = f'<span class="n">n {entry.n:,}</span>' if entry else ""
        cells.append(f"<td>{with_interval(entry, metric)}{n}</td>")
    time = '<span class="dim">–</span>' if timing is None else f"{timing.latency_ms:.3g}"
    return (f'<tr class="{kind}"><th>{model}</th><td>{"–" if evaluations is None else evaluations}</td><td>{time}</td>'
            f'{"".join(cells)}</tr>')


def classes(materials: list[Material]) -> str:
    """Per class or group of prompts: recognised (or its prompt found), MMD, diversity, beside the floor."""
    first = materials[0].document
    if not first.first.classes:
        return ""
    floor = {figures.name: figures for figures in first.floor.classes}
    head = "".join(f'<th colspan="3"><i class="swatch m{i % 6}"></i>'
                   f"{escape('student' if len(materials) == 1 else one.label)}</th>" for i, one in enumerate(materials))
    prompts = bool(materials[0].document.prompts)
    second = f"<th>{'prompt found' if prompts else 'recognised'} %</th><th>MMD·10³</th><th>diversity</th>"
    body = []
    by_name = [{figures.name: figures for figures in material.document.first.classes} for material in materials]
    worst = [min(figures.values(), key=_done).name for figures in by_name]
    for name, figures in by_name[0].items():
        cells = "".join(_class_cells(known.get(name), name == least)
                        for known, least in zip(by_name, worst, strict=True))  # fmt: skip
        body.append(f"<tr><th>{escape(name)}</th><td>{figures.n:,} / {figures.reference}</td>{cells}"
                    f"{_class_cells(floor.get(name), False)}</tr>")  # fmt: skip
    return (f'<div class="scroll"><table class="wide"><thead><tr><th rowspan="2">{"group" if prompts else "class"}</th>'
            f'<th rowspan="2">n / {"reference" if first.drawn else "real"}</th>'
            f'{head}<th colspan="3">{escape(first.floor.subject)}</th></tr><tr>{second * (len(materials) + 1)}</tr>'
            f"</thead><tbody>{''.join(body)}</tbody></table></div>")  # fmt: skip


def _done(figures: ClassFigures) -> float:
    """How far what was asked for is done: the share recognised, or of prompts found; 1 where neither was measured."""
    return next((share for share in (figures.accuracy, figures.retrieval) if share is not None), 1.0)


def _class_cells(found: ClassFigures | None, worst: bool) -> str:
    """Recognised, MMD and diversity; dashes for a class that was not asked for."""
    accuracy = mmd = diversity = (None, None)
    if found is not None:
        of_class, of_prompts = (found.accuracy, found.interval), (found.retrieval, found.retrieval_interval)
        accuracy, mmd = of_prompts if found.accuracy is None else of_class, (found.mmd, found.mmd_interval)
        diversity = (found.diversity, found.diversity_interval)
    mark = ' class="worst"' if worst else ""
    return (f"<td{mark}>{figure(*accuracy, BY_NAME['class_accuracy'])}</td><td>{figure(*mmd, BY_NAME['mmd'])}</td>"
            f"<td>{figure(*diversity, BY_NAME['diversity'])}</td>")  # fmt: skip

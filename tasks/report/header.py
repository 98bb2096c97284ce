"""The top of the page: the verdict in a sentence and the figures that carry it."""

from __future__ import annotations

from html import escape

from fewstep.metrics.metric_names import counted
from tasks.evaluation.documents import Evaluation
from tasks.report.formatting import BY_NAME, COUNTED, number, title, with_interval
from tasks.report.report_data import Material
from tasks.report.results_table import first_equivalence, reached

_CARDS = ("fd_infinite", "recall", "diversity", "class_accuracy", "retrieval", "nearest_ratio")
_COLUMNS = ("fd_infinite", "kid", "recall")


def top(materials: list[Material]) -> str:
    """The verdict, and the figures that carry it."""
    if len(materials) > 1:
        return _compared(materials)
    material = materials[0]
    return (f'<p class="claim">{escape(first_equivalence(material.result))}</p>'
            f'<p class="verdict">{escape(reached(material.document))}.</p>'
            f'{_cards(material)}{_notes(material.document)}')  # fmt: skip


def _notes(document: Evaluation) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in document.notes)


def _cards(material: Material) -> str:
    document = material.document
    row, cards, floor = document.first, [], "teacher again" if document.drawn else "real"
    for name in _CARDS:
        entry, metric = row.values.get(name), BY_NAME[name]
        if entry:
            beside = [f"{label} {number(other.value(name), metric)}"
                      for label, other in (("teacher", document.teacher), (floor, document.floor))
                      if name in other.values]  # fmt: skip
            cards.append(f'<div class="card" title="{escape(metric.explained)}"><h3>{escape(title(metric, document))}'
                         f'</h3><p>{with_interval(entry, metric)}</p><p class="dim">{" · ".join(beside)}</p>'
                         f'<p class="dim">n {entry.n:,}</p></div>')  # fmt: skip
    timed = material.cost_of("evaluate").student.get(str(row.steps))
    if timed:
        teacher = material.cost_of("baselines").teacher
        slow = f"teacher {teacher.latency_ms:.3g} ms" if teacher else ""
        one, many = COUNTED[document.medium]
        rate = "" if timed.images_per_second is None else f"{timed.images_per_second:,.0f} {many}/s in batches"
        cards.append(f'<div class="card"><h3>one {one}</h3><p><b>{timed.latency_ms:.3g}</b> ms</p>'
                     f'<p class="dim">{slow}</p><p class="dim">{rate}</p></div>')  # fmt: skip
    return f'<div class="cards">{"".join(cards)}</div>'


def _compared(materials: list[Material]) -> str:
    columns = (*_COLUMNS, "retrieval" if materials[0].document.prompts else "class_accuracy")
    head = "<tr><th>model</th><th>steps</th>" + "".join(
        f"<th>{escape(BY_NAME[name].title)}</th>" for name in columns
    ) + "<th>equals</th><th>ms</th></tr>"  # fmt: skip
    rows, best = [], min(materials, key=_distance)
    for i, material in enumerate(materials):
        row = material.document.first
        cells = "".join(f"<td>{with_interval(row.values.get(name), BY_NAME[name])}</td>" for name in columns)
        timed = material.cost_of("evaluate").student.get(str(row.steps))
        name = f'<i class="swatch m{i % 6}"></i>{escape(material.label)}'
        rows.append(f"<tr><th>{name}</th><td>{row.steps}</td>{cells}"
                    f"<td>{escape(first_equivalence(material.result).split(' = ')[-1])}</td>"
                    f"<td>{'–' if timed is None else f'{timed.latency_ms:.3g}'}</td></tr>")  # fmt: skip
    compared = best.document.drawn or "real images"
    claim = f"{best.label} is nearest to {compared} in {counted(best.document.first.steps, 'step')}"
    others = [one for one in materials if one is not best]
    apart = [one for one in others if _interval(one)[0] > _interval(best)[1]]
    if len(apart) < len(others):
        claim += ", but its interval overlaps with " + ", ".join(one.label for one in others if one not in apart)
    return (f'<p class="claim">{escape(claim)}.</p><p class="verdict">All values below were measured under one '
            f"protocol; the intervals are of each value by itself, so models whose intervals overlap are not shown to "
            f'differ.</p><div class="scroll"><table class="wide">{head}{"".join(rows)}</table></div>'
            + "".join(_notes(one.document) for one in materials))  # fmt: skip


def _distance(material: Material) -> float:
    return material.document.first.values["fd_infinite"].value


def _interval(material: Material) -> tuple[float, float]:
    return material.document.first.values["fd_infinite"].interval

"""The top of the page: the verdict in a sentence and the figures that carry it."""

from __future__ import annotations

from html import escape

from fewstep.metrics.metric_names import counted
from tasks.report import results_table
from tasks.report.formatting import BY_NAME, frechet_name, number, with_interval
from tasks.report.report_data import Material


def top(materials: list[Material]) -> str:
    """The verdict, and the figures that carry it."""
    if len(materials) > 1:
        return _compared(materials)
    document = materials[0].priced
    row = document["student"][0]
    claim = results_table.equivalence(document, row)
    rest = results_table.verdict(document).removesuffix(f" {claim}.")
    return (f'<p class="claim">{escape(claim)}</p><p class="verdict">{escape(rest)}</p>'
            f'{_cards(materials[0])}{_notes(document)}')  # fmt: skip


def _notes(document: dict) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in document.get("notes", []))


def _cards(material: Material) -> str:
    document = material.priced
    row, floor = document["student"][0], document["floor"]["values"]
    teacher = next(one for one in document["rows"] if one["teacher"])
    cards = []
    for name in ("fd_infinite", "recall", "diversity", "class_accuracy", "nearest_ratio"):
        entry, metric = row["values"].get(name), BY_NAME[name]
        if entry:
            beside = [f"{label} {number(values[name]['value'], metric)}"
                      for label, values in (("teacher", teacher["values"]), ("real", floor)) if name in values]
            title = metric.title if name not in ("fd_infinite", "fd") else frechet_name(document)
            cards.append(f'<div class="card" title="{escape(metric.explained)}"><h3>{escape(title)}</h3>'
                         f'<p>{with_interval(entry, metric)}</p><p class="dim">{" · ".join(beside)}</p>'
                         f'<p class="dim">n {entry["n"]:,}</p></div>')  # fmt: skip
    timed = material.cost.get("evaluate", {}).get("student", {}).get(str(row["steps"]))
    if timed:
        slow = material.cost.get("baselines", {}).get("teacher", {})
        cards.append(f'<div class="card"><h3>one image</h3><p><b>{timed["latency_ms"]:.3g}</b> ms</p>'
                     f'<p class="dim">teacher {slow.get("latency_ms", float("nan")):.3g} ms</p>'
                     f'<p class="dim">{timed["images_per_second"]:,.0f} images/s in batches</p></div>')  # fmt: skip
    return f'<div class="cards">{"".join(cards)}</div>'


def _compared(materials: list[Material]) -> str:
    head = "<tr><th>model</th><th>steps</th>" + "".join(
        f"<th>{escape(BY_NAME[name].title)}</th>" for name in ("fd_infinite", "kid", "recall", "class_accuracy")
    ) + "<th>equals</th><th>ms</th></tr>"  # fmt: skip
    rows, best = [], min(materials, key=_distance)
    for i, material in enumerate(materials):
        row, document = material.document["student"][0], material.priced
        cells = "".join(f"<td>{with_interval(row['values'].get(name), BY_NAME[name])}</td>"
                        for name in ("fd_infinite", "kid", "recall", "class_accuracy"))  # fmt: skip
        timed = material.cost.get("evaluate", {}).get("student", {}).get(str(row["steps"]), {}).get("latency_ms")
        name = f'<i class="swatch m{i % 6}"></i>{escape(material.label)}'
        rows.append(f"<tr><th>{name}</th><td>{row['steps']}</td>{cells}"
                    f"<td>{escape(results_table.equivalence(document, row).split(' = ')[-1])}</td>"
                    f"<td>{'–' if timed is None else f'{timed:.3g}'}</td></tr>")  # fmt: skip
    row = best.document["student"][0]
    claim = f"{best.label} is nearest to real images in {counted(row['steps'], 'step')}"
    others = [one for one in materials if one is not best]
    low, high = _interval(best)
    apart = [one for one in others if _interval(one)[0] > high]
    if len(apart) < len(others):
        claim += ", but its interval overlaps with " + ", ".join(one.label for one in others if one not in apart)
    return (f'<p class="claim">{escape(claim)}.</p><p class="verdict">All values below were measured under one '
            f"protocol; the intervals are of each value by itself, so models whose intervals overlap are not shown to "
            f'differ.</p><div class="scroll"><table class="wide">{head}{"".join(rows)}</table></div>'
            + "".join(_notes(one.document) for one in materials))  # fmt: skip


def _distance(material: Material) -> float:
    return material.document["student"][0]["values"]["fd_infinite"]["value"]


def _interval(material: Material) -> tuple[float, float]:
    return tuple(material.document["student"][0]["values"]["fd_infinite"]["interval"])

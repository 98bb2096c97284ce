"""Every figure of every model, and the figures by class."""

from __future__ import annotations

from html import escape

from fewstep.metrics.metric_names import solver_name
from tasks.report.formatting import BY_NAME, Metric, measured, teachers, title, with_interval
from tasks.report.report_data import Material


def everything(materials: list[Material]) -> str:
    """Every model with every figure, its interval and its n."""
    document = materials[0].document
    shown = measured(document)
    head = "".join(f'<th title="{escape(one.explained, quote=True)}">{escape(title(one, document))}</th>'
                   for one in shown)  # fmt: skip
    body = []
    for i, material in enumerate(materials):
        timed = material.cost.get("evaluate", {}).get("student", {})
        name = "student" if len(materials) == 1 else material.label
        for row in material.document["student"]:
            body.append(_line(f'<i class="swatch m{i % 6}"></i>{escape(name)}', row,
                              timed.get(str(row["steps"]), {}).get("latency_ms"), shown, "strong"))  # fmt: skip
    for material in teachers(materials):
        timed = material.cost.get("baselines", {}).get("solvers", {})
        solvers = list(dict.fromkeys(row["solver"] for row in material.document["rows"]))
        for row in material.document["rows"]:
            swatch = f'<i class="swatch s{solvers.index(row["solver"]) % 5}"></i>{escape(solver_name(row["solver"]))}'
            ms = timed.get(f"{row['solver']}-{row['evaluations']}", {}).get("latency_ms")
            body.append(_line(swatch + (" (teacher)" if row["teacher"] else ""), row, ms, shown, ""))
        body.append(_line("real images", material.document["floor"], None, shown, "floor"))
    explained = "".join(f"<dt>{escape(title(one, document))}</dt><dd>{escape(one.explained)}</dd>" for one in shown)
    return (f'<div class="scroll"><table class="wide"><thead><tr><th>model</th><th>eval.</th><th>ms</th>{head}</tr>'
            f"</thead><tbody>{''.join(body)}</tbody></table></div><details><summary>What the columns mean</summary>"
            f'<dl class="terms">{explained}</dl></details>')  # fmt: skip


def _line(model: str, row: dict, ms: float | None, shown: list[Metric], kind: str) -> str:
    cells = []
    for metric in shown:
        entry = row["values"].get(metric.name)
        n = f'<span class="n">n {entry["n"]:,}</span>' if entry else ""
        cells.append(f"<td>{with_interval(entry, metric)}{n}</td>")
    time = '<span class="dim">–</span>' if ms is None else f"{ms:.3g}"
    return (f'<tr class="{kind}"><th>{model}</th><td>{row.get("evaluations", "–")}</td><td>{time}</td>{"".join(cells)}'
            f"</tr>")


def classes(materials: list[Material]) -> str:
    """Per class: recognised, MMD, diversity, beside real images."""
    rows = materials[0].document["student"][0]["classes"]
    if not rows:
        return ""
    floor = {one["class"]: one for one in materials[0].document["floor"].get("classes", [])}
    head = "".join(f'<th colspan="3"><i class="swatch m{i % 6}"></i>'
                   f"{escape('student' if len(materials) == 1 else one.label)}</th>" for i, one in enumerate(materials))
    second = "<th>recognised %</th><th>MMD·10³</th><th>diversity</th>"
    body = []
    worst = [min(one.document["student"][0]["classes"], key=lambda row: row["accuracy"])["class"] for one in materials]
    for row in rows:
        cells = ""
        for material, least in zip(materials, worst, strict=True):
            mine = next((one for one in material.document["student"][0]["classes"] if one["class"] == row["class"]), {})
            cells += _class_cells(mine, mine.get("class") == least)
        body.append(f'<tr><th>{escape(row["class"])}</th><td>{row["n"]:,} / {row.get("reference", "–")}</td>{cells}'
                    f"{_class_cells(floor.get(row['class'], {}), False)}</tr>")  # fmt: skip
    return (f'<div class="scroll"><table class="wide"><thead><tr><th rowspan="2">class</th>'
            f'<th rowspan="2">n / real</th>'
            f'{head}<th colspan="3">real images</th></tr><tr>{second * (len(materials) + 1)}</tr></thead><tbody>'
            f"{''.join(body)}</tbody></table></div>")  # fmt: skip


def _class_cells(row: dict, worst: bool) -> str:
    cells = []
    for name, bounds, metric in (("accuracy", "interval", BY_NAME["class_accuracy"]),
                                 ("mmd", "mmd_interval", BY_NAME["mmd"]),
                                 ("diversity", "diversity_interval", BY_NAME["diversity"])):  # fmt: skip
        entry = {"value": row[name], "interval": row[bounds]} if row.get(name) is not None else None
        mark = ' class="worst"' if worst and name == "accuracy" else ""
        cells.append(f"<td{mark}>{with_interval(entry, metric)}</td>")
    return "".join(cells)

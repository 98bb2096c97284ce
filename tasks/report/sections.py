"""The parts of the page. Each takes the materials (one, or several that are compared) and returns HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

import numpy as np

from fewstep.metrics.names import counted, metric_name, solver_name
from tasks import summary
from tasks.report.charts import Axis, Band, Bracket, Point, Series, chart
from tasks.report.images import atlas
from tasks.report.material import Material

_COLUMNS, _LARGE_COLUMNS = 10, 5  # of a grid of samples; images above 32 pixels are shown in fewer
_FRAMES = 9  # of a way from noise to sample


@dataclass(frozen=True)
class Metric:
    """How one metric is shown: `scale` multiplies, `better` says which way, `axis` is the kind of its plot's axis."""

    name: str
    title: str
    digits: int
    scale: float = 1.0
    better: str = "lower"
    axis: str = "linear"
    explained: str = ""


METRICS = (
    Metric("fd_infinite", "FD∞", 3, axis="log", explained="Fréchet distance, extrapolated to infinitely many samples"),
    Metric("fd", "FD", 3, explained="Fréchet distance of this many samples, with its bias"),
    Metric("kid", "KID·10³", 1, 1000, axis="log", explained="kernel distance, unbiased"),
    Metric("mmd", "MMD·10³", 2, 1000, explained="kernel distance with a Gaussian kernel, unbiased"),
    Metric("precision", "precision %", 1, 100, "higher", explained="samples within the manifold of real images"),
    Metric("recall", "recall %", 1, 100, "higher", explained="real images within the manifold of the samples"),
    Metric("density", "density", 2, better="one", explained="real neighbourhoods around a sample; 1 expected"),
    Metric("coverage", "coverage %", 1, 100, "higher", explained="real neighbourhoods with a sample in them"),
    Metric("diversity", "diversity", 3, better="one", explained="mean distance within a class, over real images'"),
    Metric("class_accuracy", "class %", 1, 100, "higher", explained="recognised as the class that was asked for"),
    Metric("agreement_rms", "rms to teacher", 3, explained="root mean square difference from the same noise"),
    Metric("agreement_correlation", "corr. to teacher", 3, better="higher",
           explained="correlation of deviations from the mean image, from the same noise"),
    Metric("nearest_ratio", "nearest (pixels)", 2, better="one",
           explained="median distance to the nearest training image, over held-out images'; near 0: copies"),
    Metric("nearest_ratio_features", "nearest (features)", 2, better="one", explained="the same in feature space"),
)  # fmt: skip
BY_NAME = {metric.name: metric for metric in METRICS}
PLOTTED = ("fd_infinite", "kid", "recall", "precision", "class_accuracy", "agreement_rms")


def section(name: str, title: str, body: str, intro: str = "") -> str:
    lead = f'<p class="intro">{intro}</p>' if intro else ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{lead}{body}</section>' if body else ""


def tabs(group: str, panels: Iterable[tuple[str, str, bool]]) -> str:
    """Panels of (title, HTML, whether it is printed), one shown at a time."""
    panels = list(panels)
    if len(panels) == 1:
        return f'<div class="panel on print">{panels[0][1]}</div>'
    buttons = "".join(f'<button type="button" data-tab="{group}" data-n="{i}"{" class=on" if i == 0 else ""}>'
                      f"{title}</button>" for i, (title, _, _) in enumerate(panels))  # fmt: skip
    shown = "".join(
        f'<div class="panel{" on" if i == 0 else ""}{" print" if printed else ""}" data-tab="{group}" data-n="{i}">'
        f'<p class="printed">{title}</p>{body}</div>' for i, (title, body, printed) in enumerate(panels))  # fmt: skip
    return f'<div class="tabs" role="tablist">{buttons}</div>{shown}'


def number(value: float | None, metric: Metric) -> str:
    return "–" if value is None else f"{metric.scale * value:.{metric.digits}f}".replace("-", "−")


def with_interval(entry: dict | None, metric: Metric) -> str:
    """`0.096 ±0.044`, as HTML."""
    if not entry or entry["value"] is None:
        return '<span class="dim">–</span>'
    text = f"<b>{number(entry['value'], metric)}</b>"
    if entry.get("interval"):
        low, high = entry["interval"]
        text += f' <span class="dim">±{metric.scale * (high - low) / 2:.{metric.digits}f}</span>'
    return text


def told(entry: dict, metric: Metric) -> str:
    """A value in words: number, interval, n."""
    text = f"{metric.title} {number(entry['value'], metric)}"
    if entry.get("interval"):
        text += f" (95 %: {' to '.join(number(x, metric) for x in entry['interval'])})"
    return f"{text}, n {entry['n']:,}"


# the top


def top(materials: list[Material]) -> str:
    """The verdict, and the figures that carry it."""
    if len(materials) > 1:
        return _compared(materials)
    document = materials[0].priced
    row = document["student"][0]
    claim = summary.equivalence(document, row)
    return (f'<p class="claim">{escape(claim)}</p><p class="verdict">{escape(summary.verdict(document))}</p>'
            f'{_cards(materials[0])}{_notes(document)}')  # fmt: skip


def _notes(document: dict) -> str:
    return "".join(f'<p class="note">{escape(note)}</p>' for note in document.get("notes", []))


def _cards(material: Material) -> str:
    document = material.priced
    row, floor = document["student"][0], document["floor"]["values"]
    teacher = next(one for one in document["rows"] if one["teacher"])
    cards = []
    for name in ("fd_infinite", "kid", "recall", "diversity", "class_accuracy", "nearest_ratio"):
        entry, metric = row["values"].get(name), BY_NAME[name]
        if entry:
            beside = [f"{label} {number(values[name]['value'], metric)}"
                      for label, values in (("teacher", teacher["values"]), ("real", floor)) if name in values]
            title = metric.title if name not in ("fd_infinite", "fd") else _fd(document, "∞")
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


def _fd(document: dict, after: str = "") -> str:
    return metric_name("fd", document["features"]) + after


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
        rows.append(f'<tr><th><i class="swatch m{i % 6}"></i>{escape(material.label)}</th><td>{row["steps"]}</td>{cells}'
                    f"<td>{escape(summary.equivalence(document, row).split(' = ')[-1])}</td>"
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


# quality


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
        title = metric.title if name != "fd_infinite" else _fd(materials[0].document, "∞")
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
    title = metric.title if metric.name != "fd_infinite" else _fd(document, "∞")
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
                    one["high"], summary.equivalence(material.priced, row))]  # fmt: skip


def _student(material: Material, metric: Metric, kind: str, i: int, of: int) -> Series:
    timed = material.cost.get("evaluate", {}).get("student", {})
    name = "student" if of == 1 else material.label
    points = [_point(row, metric, x, f"{name}, {counted(row['steps'], 'step')}") for row in material.document["student"]
              if (x := row["evaluations"] if kind == "evaluations"
                  else timed.get(str(row["steps"]), {}).get("latency_ms")) and metric.name in row["values"]]  # fmt: skip
    return Series(name, points, f"m{i % 6}", 0, strong=True)


def _solvers(materials: list[Material], metric: Metric, kind: str) -> list[Series]:
    found = []
    for i, material in enumerate(_teachers(materials)):
        timed = material.cost.get("baselines", {}).get("solvers", {})
        for j, solver in enumerate(dict.fromkeys(row["solver"] for row in material.document["rows"])):
            rows = [row for row in material.document["rows"] if row["solver"] == solver and metric.name in row["values"]]
            rows.sort(key=lambda row: row["evaluations"])
            points = [_point(row, metric, x, row["subject"]) for row in rows
                      if (x := row["evaluations"] if kind == "evaluations"
                          else timed.get(f"{solver}-{row['evaluations']}", {}).get("latency_ms"))]  # fmt: skip
            name = solver_name(solver) + (f" ({material.label})" if i else "")
            found.append(Series(name, points, f"s{j % 5}", 1 + j))
    return found


def _teachers(materials: list[Material]) -> list[Material]:
    """One material per set of baselines: students of one teacher share theirs."""
    seen: dict[str, Material] = {}
    for material in materials:
        seen.setdefault(material.stages.get("baselines", {}).get("digest") or str(id(material)), material)
    return list(seen.values())


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
    return f'<div class="legend">{"".join(entries)}<span class="dim">real images: line and band; bars: 95 %</span></div>'


# pictures


def pictures(materials: list[Material]) -> str:
    """Students, solvers at their cost and the teacher, from the same noise."""
    panels = []
    most = max((len(one.document["student"]) for one in materials), default=0)
    for k in range(most):
        blocks, captions = [], []
        for material in materials:
            rows = material.document["student"]
            if k < len(rows) and f"grid.student-{rows[k]['steps']}" in material.pictures:
                steps = rows[k]["steps"]
                name = "student" if len(materials) == 1 else material.label
                blocks.append(_grid(material, f"grid.student-{steps}", name, counted(steps, "step")))
                captions.append(counted(steps, "step"))
        if not blocks:
            continue
        material = materials[0]
        chosen = material.document["comparisons"].get(str(material.document["student"][min(k, len(
            material.document["student"]) - 1)]["steps"]), {})  # fmt: skip
        rival = f"grid.{chosen.get('solver')}-{chosen.get('evaluations')}"
        if len(materials) == 1 and rival in material.pictures:
            blocks.append(_grid(material, rival, solver_name(chosen["solver"]),
                                counted(chosen["evaluations"], "evaluation")))  # fmt: skip
        for one in _teachers(materials):
            if "grid.teacher" in one.pictures:
                best = next(row for row in one.document["rows"] if row["teacher"])
                blocks.append(_grid(one, "grid.teacher", "teacher", f"{solver_name(best['solver'])}, "
                                    f"{counted(best['evaluations'], 'evaluation')}"))  # fmt: skip
        panels.append((captions[0], f'<div class="grids">{"".join(blocks)}</div>', k == 0))
    return tabs("pictures", panels) if panels else ""


def _grid(material: Material, name: str, title: str, note: str) -> str:
    images, classes = material.pictures[name], material.pictures.get("shown.classes")
    columns = _COLUMNS if images.shape[-1] <= 32 else _LARGE_COLUMNS
    if classes is None:
        rows = [images[i : i + columns] for i in range(0, min(len(images), columns * 10), columns)]
    else:
        rows = [images[classes == label][:columns] for label in np.unique(classes)]
    source, width, height = atlas(rows)
    return (f'<figure class="grid" data-rows="{len(rows)}" data-columns="{max(map(len, rows))}"><figcaption><b>'
            f'{escape(title)}</b> <span class="dim">{escape(note)}</span></figcaption><div class="cells"><img '
            f'src="{source}" width="{width}" height="{height}" alt="{escape(title, quote=True)} samples"></div></figure>')


def ways(materials: list[Material]) -> str:
    """From noise to sample: the teacher's states and the students', a row per sample."""
    blocks = []
    for material in _teachers(materials):
        if "way.teacher" in material.pictures:
            best = next(row for row in material.document["rows"] if row["teacher"])
            blocks.append(_way(material, "way.teacher", "teacher", counted(best["evaluations"], "evaluation")))
    for material in materials:
        for row in material.document["student"][: 4 if len(materials) == 1 else 1]:
            if f"way.student-{row['steps']}" in material.pictures:
                name = "student" if len(materials) == 1 else material.label
                blocks.append(_way(material, f"way.student-{row['steps']}", name, counted(row["steps"], "step")))
    return f'<div class="ways">{"".join(blocks)}</div>' if blocks else ""


def _way(material: Material, name: str, title: str, note: str) -> str:
    states = material.pictures[name]
    chosen = np.unique(np.linspace(0, states.shape[1] - 1, min(_FRAMES, states.shape[1])).round().astype(int))
    source, width, height = atlas([row[chosen] for row in states])
    return (f'<figure class="way"><figcaption><b>{escape(title)}</b> <span class="dim">{escape(note)}</span></figcaption>'
            f'<img src="{source}" width="{width}" height="{height}" alt="{escape(title, quote=True)}: noise to sample">'
            f"</figure>")


def closest(materials: list[Material]) -> str:
    """The samples nearest to training images, beside what held-out images give, and both distributions."""
    blocks = []
    for i, material in enumerate(materials):
        found = material.pictures
        if "closest.samples" not in found:
            continue
        row = material.document["student"][0]
        label = "student" if len(materials) == 1 else material.label
        strips = "".join(_pairs(found, name, title) for name, title in
                         (("samples", f"the samples nearest to training images ({label})"),
                          ("held_out", "the held-out real images nearest to training images")))  # fmt: skip
        plots = []
        for space in ("pixels", "features"):
            mine, held = found.get(f"near.student-{row['steps']}.{space}"), found.get(f"held_out.{space}")
            if mine is not None and held is not None:
                suffix = "" if space == "pixels" else "_features"
                ratio, share = (row["values"].get(f"nearest_{kind}{suffix}") for kind in ("ratio", "share"))
                drawn = chart([_shares(mine, label, f"m{i % 6}", True), _shares(held, "held-out images", "s0", False)],
                              Axis(f"distance to the nearest training image ({space})"), Axis("share of images below"),
                              label=f"distances to training images in {space}", marks=False)  # fmt: skip
                text = (f"Median {told(ratio, BY_NAME['nearest_ratio'])} of held-out images’; nearer than all but 5 % of "
                        f"these: {100 * share['value']:.1f} % (95 %: {100 * share['interval'][0]:.1f} to "
                        f"{100 * share['interval'][1]:.1f}), n {share['n']:,}; about 5 % are expected of new images."
                        ) if ratio and share else ""  # fmt: skip
                plots.append(f'<figure class="plot" data-x="{space}">{drawn}<figcaption>{escape(text)}</figcaption>'
                             f"</figure>")  # fmt: skip
        blocks.append(f'{strips}<div class="legend"><span class="key"><i class="swatch m{i % 6}"></i>{escape(label)}'
                      f'</span><span class="key"><i class="swatch s0"></i>held-out images</span></div>'
                      f'<div class="pair">{"".join(plots)}</div>')  # fmt: skip
    return "".join(blocks)


def _pairs(found: dict[str, np.ndarray], name: str, title: str) -> str:
    images, near = found[f"closest.{name}"], found[f"closest.{name}.training"]
    far = found[f"closest.{name}.distance"]
    source, width, height = atlas([images, near])
    return (f'<figure class="strip"><figcaption>{escape(title)}; below each the training image. Distances '
            f'{far.min():.3g} to {far.max():.3g}.</figcaption><img src="{source}" width="{width}" height="{height}" '
            f'alt="{escape(title, quote=True)}"></figure>')


def _shares(distances: np.ndarray, name: str, tone: str, strong: bool) -> Series:
    """The share of distances below each, thinned to what a plot shows."""
    ordered = np.sort(distances)
    rows = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), 120)).round().astype(int))
    return Series(name, [Point(float(ordered[i]), float((i + 1) / len(ordered))) for i in rows], tone, 0, strong)


# tables


def everything(materials: list[Material]) -> str:
    """Every model with every figure, its interval and its n."""
    shown = [metric for metric in METRICS
             if any(metric.name in row["values"] for row in materials[0].document["student"])]  # fmt: skip
    head = "".join(f'<th title="{escape(metric.explained, quote=True)}">{escape(metric.title)}</th>' for metric in shown)
    body = []
    for i, material in enumerate(materials):
        timed = material.cost.get("evaluate", {}).get("student", {})
        name = "student" if len(materials) == 1 else material.label
        for row in material.document["student"]:
            body.append(_line(f'<i class="swatch m{i % 6}"></i>{escape(name)}', row,
                              timed.get(str(row["steps"]), {}).get("latency_ms"), shown, "strong"))  # fmt: skip
    for material in _teachers(materials):
        timed = material.cost.get("baselines", {}).get("solvers", {})
        solvers = list(dict.fromkeys(row["solver"] for row in material.document["rows"]))
        for row in material.document["rows"]:
            swatch = f'<i class="swatch s{solvers.index(row["solver"]) % 5}"></i>{escape(solver_name(row["solver"]))}'
            ms = timed.get(f"{row['solver']}-{row['evaluations']}", {}).get("latency_ms")
            body.append(_line(swatch + (" (teacher)" if row["teacher"] else ""), row, ms, shown, ""))
        body.append(_line("real images", material.document["floor"], None, shown, "floor"))
    explained = "".join(f"<dt>{escape(metric.title)}</dt><dd>{escape(metric.explained)}</dd>" for metric in shown)
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
    """Per class: recognised, kernel distance, diversity, beside real images."""
    rows = materials[0].document["student"][0]["classes"]
    if not rows:
        return ""
    floor = {one["class"]: one for one in materials[0].document["floor"].get("classes", [])}
    head = "".join(f'<th colspan="3"><i class="swatch m{i % 6}"></i>'
                   f"{escape('student' if len(materials) == 1 else one.label)}</th>" for i, one in enumerate(materials))
    second = "<th>recognised %</th><th>KID·10³</th><th>diversity</th>"
    body = []
    worst = [min(one.document["student"][0]["classes"], key=lambda row: row["accuracy"])["class"] for one in materials]
    for row in rows:
        cells = ""
        for material, least in zip(materials, worst, strict=True):
            mine = next((one for one in material.document["student"][0]["classes"] if one["class"] == row["class"]), {})
            cells += _class_cells(mine, mine.get("class") == least)
        body.append(f'<tr><th>{escape(row["class"])}</th><td>{row["n"]:,} / {row.get("reference", "–")}</td>{cells}'
                    f"{_class_cells(floor.get(row['class'], {}), False)}</tr>")  # fmt: skip
    return (f'<div class="scroll"><table class="wide"><thead><tr><th rowspan="2">class</th><th rowspan="2">n / real</th>'
            f'{head}<th colspan="3">real images</th></tr><tr>{second * (len(materials) + 1)}</tr></thead><tbody>'
            f"{''.join(body)}</tbody></table></div>")  # fmt: skip


def _class_cells(row: dict, worst: bool) -> str:
    cells = []
    for name, bounds, metric in (("accuracy", "interval", BY_NAME["class_accuracy"]),
                                 ("kid", "kid_interval", BY_NAME["kid"]),
                                 ("diversity", "diversity_interval", BY_NAME["diversity"])):  # fmt: skip
        entry = {"value": row[name], "interval": row[bounds]} if row.get(name) is not None else None
        mark = ' class="worst"' if worst and name == "accuracy" else ""
        cells.append(f"<td{mark}>{with_interval(entry, metric)}</td>")
    return "".join(cells)


# training, cost, provenance


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
        summary_of = material.stages.get("distill", {}).get("summary", {})
        cost, end = material.cost.get("distill", {}), 0
        for one in summary_of.get("rounds", []):
            end += one.get("images", 0)
            seconds = cost.get(one["round"], {}).get("seconds")
            turns = ", ".join(f"{role} {count}" for role, count in one.get("turns", {}).items())
            rows.append(f"<tr><th>{escape(material.label)}</th><td>{escape(one['round'])}</td><td>{one['images']:,}</td>"
                        f"<td>{end:,}</td><td>{escape(turns)}</td><td>{'–' if seconds is None else f'{seconds:,.0f} s'}"
                        f"</td></tr>")  # fmt: skip
    if not rows:
        return ""
    return ('<div class="scroll"><table><thead><tr><th></th><th>round</th><th>images</th><th>ends at</th><th>turns</th>'
            f"<th>time</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>")  # fmt: skip


def costs(materials: list[Material]) -> str:
    """What sampling takes, and what making the student took."""
    rows = []
    for material in materials:
        evaluate, baselines = (material.cost.get(name, {}) for name in ("evaluate", "baselines"))
        for row in material.document["student"]:
            timed = evaluate.get("student", {}).get(str(row["steps"]))
            rows.append(_cost(material.label, counted(row["steps"], "step"), row["evaluations"], timed,
                              evaluate.get("parameters"), evaluate.get("peak_memory_mb")))  # fmt: skip
    for material in _teachers(materials):
        baselines = material.cost.get("baselines", {})
        timed = baselines.get("teacher")
        if timed:
            rows.append(_cost("teacher", solver_name(timed["solver"]), timed["evaluations"], timed,
                              baselines.get("parameters"), baselines.get("peak_memory_mb")))  # fmt: skip
    head = ("<th>model</th><th></th><th>evaluations</th><th>ms, one image</th><th>95 % of images</th><th>images/s</th>"
            "<th>parameters</th><th>peak memory</th>")  # fmt: skip
    spent = []
    for material in materials:
        parts = [f"{name} {entry['seconds']:,.0f} s" for name, entry in material.cost.items() if "seconds" in entry]
        if parts:
            spent.append(f"<p class='dim'>Time of the stages, {escape(material.label)}: {escape(' · '.join(parts))}</p>")
    return (f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
            f"{''.join(spent)}")  # fmt: skip


def _cost(label: str, what: str, evaluations: int, timed: dict | None, parameters: int | None, peak: float | None) -> str:
    timed = timed or {}

    def cell(value: float | None, form: Callable[[float], str]) -> str:
        return f"<td>{'–' if value is None else form(value)}</td>"

    return (f"<tr><th>{escape(label)}</th><td>{escape(what)}</td><td>{evaluations}</td>"
            + cell(timed.get("latency_ms"), "{:.3g}".format) + cell(timed.get("latency_ms_p95"), "{:.3g}".format)
            + cell(timed.get("images_per_second"), "{:,.0f}".format) + cell(parameters, "{:,}".format)
            + cell(peak, "{:,.0f} MB".format) + "</tr>")  # fmt: skip


def protocol(materials: list[Material]) -> str:
    """What all values have in common, and what each metric adds."""
    document = materials[0].document
    values = document["student"][0]["values"]
    main = document["protocols"][values["fd_infinite"]["protocol"]]
    common = "".join(f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{_plain(value)}</dd>"
                     for name, value in main.items() if name not in ("metric", "parameters"))  # fmt: skip
    rows = []
    for name, entry in values.items():
        one = document["protocols"][entry["protocol"]]
        settings = " · ".join(f"{key} {value}" for key, value in one["parameters"].items())
        shown = f"{metric_name(one['metric'], one['features'])} <span class='dim'>{escape(name)}</span>"
        rows.append(f"<tr><th>{shown}</th><td>{escape(one['features'])}</td><td>{escape(settings)}</td>"
                    f"<td><code>{entry['protocol']}</code></td></tr>")  # fmt: skip
    return (f'<dl class="terms">{common}</dl><details><summary>Every metric</summary><div class="scroll"><table><thead>'
            f"<tr><th>metric</th><th>features</th><th>settings</th><th>protocol</th></tr></thead><tbody>{''.join(rows)}"
            f"</tbody></table></div></details>")  # fmt: skip


def lineage(materials: list[Material]) -> str:
    """What the student came from: every stage's key and digest, its inputs, the code."""
    blocks = []
    for material in materials:
        if not material.stages:
            continue
        rows = []
        for name, one in material.stages.items():
            inputs = ", ".join(f"{key} {value['digest'][:10]}" for key, value in one["inputs"].items())
            given = ", ".join(f"{key} {str(value)[:10]}" for key, value in one["given"].items())
            rows.append(f'<tr id="stage-{escape(name)}"><th>{escape(name)}</th><td><code title="{one["digest"]}">'
                        f'{one["digest"][:10]}</code></td><td><code title="{one["key"]}">{one["key"][:10]}</code></td>'
                        f"<td>{escape(', '.join(filter(None, [inputs, given])) or '–')}</td><td>{one['files']} files, "
                        f"{one['bytes'] / 1e6:.2f} MB</td></tr>")  # fmt: skip
        last = material.stages.get("evaluate") or next(iter(material.stages.values()))
        machine = last["fingerprint"][-1] if last["fingerprint"] else {}
        facts = {"commit": material.commit or "not in git", **last["versions"], **machine}
        text = " · ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
        blocks.append(f'<h3>{escape(material.label)}</h3><div class="scroll"><table><thead><tr><th>stage</th><th>bytes'
                      f"</th><th>key</th><th>made from</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
                      f'</div><p class="dim">{escape(text)}</p>')  # fmt: skip
    return "".join(blocks)


def settings(materials: list[Material]) -> str:
    """Every resolved setting by stage; of several materials only what differs stands open."""
    flat = [{f"{stage}.{key}": value for stage, one in material.stages.items()
             for key, value in _flat(one["settings"]).items()} for material in materials]  # fmt: skip
    if not any(flat):
        return ""
    names = list(dict.fromkeys(name for one in flat for name in one))
    differing = [name for name in names if len({str(one.get(name, "–")) for one in flat}) > 1]
    head = "".join(f"<th>{escape(material.label)}</th>" for material in materials)

    def table(chosen: list[str]) -> str:
        rows = "".join(f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{_plain(one.get(name, '–'))}</td>" for one in flat)
                       + "</tr>" for name in chosen)  # fmt: skip
        return (f'<div class="scroll"><table class="settings"><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody>'
                f"</table></div>")

    opened = table(differing) if len(materials) > 1 and differing else ""
    return opened + f"<details><summary>All {len(names)} settings</summary>{table(names)}</details>"


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict) and value:
        return {key: one for name, part in value.items()
                for key, one in _flat(part, f"{prefix}.{name}" if prefix else str(name)).items()}  # fmt: skip
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return {key: one for i, part in enumerate(value) for key, one in _flat(part, f"{prefix}.{i + 1}").items()}
    return {prefix: value}


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return '<span class="dim">none</span>'
    if isinstance(value, list):
        return escape(", ".join(map(str, value)))
    return escape(str(value))

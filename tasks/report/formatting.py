"""How figures are shown: names, digits, intervals, panels. Shared by the sections of the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape

from fewstep.metrics.metric_names import metric_name
from fewstep.metrics.protocol import StoredValue
from tasks.evaluation.documents import Baselines, Evaluation
from tasks.report.report_data import Material


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
    Metric("precision", "precision %", 1, 100, "higher", explained="samples within the manifold of the reference"),
    Metric("recall", "recall %", 1, 100, "higher", explained="reference images within the manifold of the samples"),
    Metric("density", "density", 2, better="one", explained="reference neighbourhoods around a sample; 1 expected"),
    Metric("coverage", "coverage %", 1, 100, "higher", explained="reference neighbourhoods with a sample in them"),
    Metric("diversity", "diversity", 3, better="one",
           explained="mean distance within a class or prompt, over the reference's"),
    Metric("class_accuracy", "class %", 1, 100, "higher", explained="recognised as the class that was asked for"),
    Metric("retrieval", "prompt found %", 1, 100, "higher",
           explained="samples whose prompt is nearer to them than each of 63 others (or all there are)"),
    Metric("text_alignment", "text alignment", 3, better="higher",
           explained="mean cosine between a sample's embedding and its prompt's"),
    Metric("agreement_rms", "rms to teacher", 3, explained="root mean square difference from the same noise"),
    Metric("agreement_correlation", "corr. to teacher", 3, better="higher",
           explained="correlation of deviations from the mean image, from the same noise"),
    Metric("nearest_ratio", "nearest (pixels)", 2, better="one",
           explained="median distance to the nearest training image, over held-out images'; near 0: copies"),
    Metric("nearest_ratio_features", "nearest (features)", 2, better="one", explained="the same in feature space"),
)  # fmt: skip
COUNTED = {"images": ("image", "images"), "videos": ("video", "videos"), "sound": ("sound", "sounds")}
"""What one sample, and several, are called, by medium."""
BY_NAME = {metric.name: metric for metric in METRICS}


def section(name: str, title: str, body: str, intro: str = "") -> str:
    """A section of the page, as HTML; empty where the body is."""
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
    """A value in the metric's unit and digits, with a true minus sign; a dash for None."""
    return "–" if value is None else f"{metric.scale * value:.{metric.digits}f}".replace("-", "−")


def with_interval(entry: StoredValue | None, metric: Metric) -> str:
    """`0.096 ±0.044`, as HTML; a dash for what was not measured."""
    return figure(entry and entry.value, entry and entry.interval, metric)


def figure(value: float | None, interval: tuple[float, float] | None, metric: Metric) -> str:
    """`0.096 ±0.044`, as HTML; a dash for None."""
    if value is None:
        return '<span class="dim">–</span>'
    text = f"<b>{number(value, metric)}</b>"
    if interval:
        low, high = interval
        text += f' <span class="dim">±{metric.scale * (high - low) / 2:.{metric.digits}f}</span>'
    return text


def told(entry: StoredValue, metric: Metric) -> str:
    """A value in words: number, interval, n."""
    text = f"{metric.title} {number(entry.value, metric)}"
    if entry.interval:
        text += f" (95 %: {' to '.join(number(x, metric) for x in entry.interval)})"
    return f"{text}, n {entry.n:,}"


def title(metric: Metric, document: Baselines) -> str:
    """A metric's name in print; a Fréchet distance carries its features, being called FID in Inception's only."""
    if metric.name in ("fd", "fd_infinite"):
        return metric_name(metric.name, document.features)
    return metric.title


def measured(document: Evaluation) -> list[Metric]:
    """The metrics that the first student has, those in further features (`kid@dinov2`) last."""
    values = document.first.values
    found = [metric for metric in METRICS if metric.name in values]
    for name in values:
        base, _, features = name.partition("@")
        if features and base != "fd_bias":
            like = BY_NAME.get(base, BY_NAME["fd"])
            called = metric_name(base, features)
            shown = called if features in called or called in ("FID", "FID∞", "CMMD") else f"{called} {features}"
            unit = "·10³" if like.scale == 1000 and base != "cmmd" else ""
            found.append(replace(like, name=name, title=shown + unit, explained=f"{like.explained} (in {features})"))
    return found


def teachers(materials: list[Material]) -> list[Material]:
    """One material per set of baselines: students of one teacher share theirs."""
    seen: dict[str, Material] = {}
    for material in materials:
        baselines = material.stages.get("baselines")
        seen.setdefault(baselines.digest if baselines else str(id(material)), material)
    return list(seen.values())

"""Nearest training images: the closest samples beside the closest held-out images, and both distributions."""

from __future__ import annotations

from html import escape

import numpy as np

from fewstep.metrics.protocol import StoredValue
from tasks.report.formatting import BY_NAME, told
from tasks.report.inline_images import atlas
from tasks.report.report_data import Material
from tasks.report.svg_charts import Axis, Point, Series, chart


def closest(materials: list[Material]) -> str:
    """The samples nearest to training images, beside what held-out images give, and both distributions."""
    blocks = []
    for i, material in enumerate(materials):
        arrays, row = material.pictures, material.document.first
        if "closest.samples" not in arrays:
            continue
        label = "student" if len(materials) == 1 else material.label
        strips = "".join(_pairs(arrays, name, title) for name, title in
                         (("samples", f"the samples nearest to training images ({label})"),
                          ("held_out", "the held-out real images nearest to training images")))  # fmt: skip
        plots = []
        for space in ("pixels", "features"):
            mine, held = arrays.get(f"near.student-{row.steps}.{space}"), arrays.get(f"held_out.{space}")
            if mine is not None and held is not None:
                suffix = "" if space == "pixels" else "_features"
                ratio, share = (row.values.get(f"nearest_{kind}{suffix}") for kind in ("ratio", "share"))
                drawn = chart([_shares(mine, label, f"m{i % 6}", True), _shares(held, "held-out images", "s0", False)],
                              Axis(f"distance to the nearest training image ({space})"), Axis("share of images below"),
                              label=f"distances to training images in {space}", marks=False)  # fmt: skip
                text = _told(ratio, share) if ratio and share else ""
                plots.append(f'<figure class="plot" data-x="{space}">{drawn}<figcaption>{escape(text)}</figcaption>'
                             f"</figure>")  # fmt: skip
        blocks.append(f'{strips}<div class="legend"><span class="key"><i class="swatch m{i % 6}"></i>{escape(label)}'
                      f'</span><span class="key"><i class="swatch s0"></i>held-out images</span></div>'
                      f'<div class="pair">{"".join(plots)}</div>')  # fmt: skip
    return "".join(blocks)


def _told(ratio: StoredValue, share: StoredValue) -> str:
    """Both figures of memorisation in a sentence each."""
    metric, (low, high) = BY_NAME["nearest_ratio"], share.interval
    median = told(ratio, metric).removeprefix(metric.title)
    return (f"Median distance over that of held-out images:{median}. Nearer than all but 5 % of these: "
            f"{100 * share.value:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f}), n {share.n:,}; about 5 % are "
            f"expected of new images.")  # fmt: skip


def _pairs(arrays: dict[str, np.ndarray], name: str, title: str) -> str:
    images, near = arrays[f"closest.{name}"], arrays[f"closest.{name}.training"]
    far = arrays[f"closest.{name}.distance"]
    source, width, height = atlas([images, near])
    return (f'<figure class="strip"><figcaption>{escape(title)}; below each the training image. Distances '
            f'{far.min():.3g} to {far.max():.3g}.</figcaption><img src="{source}" width="{width}" height="{height}" '
            f'alt="{escape(title, quote=True)}"></figure>')


def _shares(distances: np.ndarray, name: str, tone: str, strong: bool) -> Series:
    """The share of distances below each, thinned to what a plot shows."""
    ordered = np.sort(distances)
    rows = np.unique(np.linspace(0, len(ordered) - 1, min(len(ordered), 120)).round().astype(int))
    return Series(name, [Point(float(ordered[i]), float((i + 1) / len(ordered))) for i in rows], tone, 0, strong)

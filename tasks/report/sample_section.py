"""Samples from the same noise side by side, and their ways from noise."""

from __future__ import annotations

from html import escape

import numpy as np

from fewstep.metrics.metric_names import counted, solver_name
from tasks.report.formatting import tabs, teachers
from tasks.report.inline_images import atlas
from tasks.report.report_data import Material

_COLUMNS, _LARGE_COLUMNS = 10, 5  # of a grid of samples; images above 32 pixels are shown in fewer
_FRAMES = 9  # of a way from noise to sample


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
        for one in teachers(materials):
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
            f'src="{source}" width="{width}" height="{height}" alt="{escape(title, quote=True)} samples"></div>'
            f"</figure>")


def ways(materials: list[Material]) -> str:
    """From noise to sample: the teacher's states and the students', a row per sample."""
    blocks = []
    for material in teachers(materials):
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
    caption = f'<b>{escape(title)}</b> <span class="dim">{escape(note)}</span>'
    return (f'<figure class="way"><figcaption>{caption}</figcaption>'
            f'<img src="{source}" width="{width}" height="{height}" alt="{escape(title, quote=True)}: noise to sample">'
            f"</figure>")

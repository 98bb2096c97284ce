"""Samples from the same noise side by side, and the states between noise and sample."""

from __future__ import annotations

from html import escape

import numpy as np

from fewstep.metrics.metric_names import counted, solver_name
from tasks.evaluation.documents import StudentRow, baseline_name
from tasks.report.formatting import tabs, teachers
from tasks.report.inline_images import atlas
from tasks.report.report_data import Material

_COLUMNS, _LARGE_COLUMNS, _WIDE_COLUMNS = 10, 5, 2  # of a grid: of small images, of those above 32 pixels, of strips
_WIDE = 3  # times as wide as high
_FRAMES = 9  # between noise and sample


def pictures(materials: list[Material]) -> str:
    """Students, solvers at their cost and the teacher, from the same noise."""
    panels = []
    for k in range(max((len(material.document.student) for material in materials), default=0)):
        students = [(material, material.document.student[k]) for material in materials
                    if k < len(material.document.student)]
        shown = [(material, row) for material, row in students if f"grid.student-{row.steps}" in material.pictures]
        if not shown:
            continue
        blocks = [_grid(material, f"grid.student-{row.steps}", "student" if len(materials) == 1 else material.label,
                        counted(row.steps, "step")) for material, row in shown]  # fmt: skip
        if len(materials) == 1:
            blocks += _rival(*shown[0])
        blocks += [_teacher_grid(material) for material in teachers(materials) if "grid.teacher" in material.pictures]
        panels.append((counted(shown[0][1].steps, "step"), f'<div class="grids">{"".join(blocks)}</div>', k == 0))
    return tabs("pictures", panels) if panels else ""


def _rival(material: Material, row: StudentRow) -> list[str]:
    """The best solver at the cost of this row of the student, where there is one."""
    found = material.document.comparison(row)
    if found.solver is None:
        return []
    name = f"grid.{baseline_name(found.solver, found.evaluations)}"
    if name not in material.pictures:
        return []
    return [_grid(material, name, solver_name(found.solver), counted(found.evaluations, "evaluation"))]


def _teacher_grid(material: Material) -> str:
    teacher = material.document.teacher
    note = f"{solver_name(teacher.solver)}, {counted(teacher.evaluations, 'evaluation')}"
    return _grid(material, "grid.teacher", "teacher", note)


def _grid(material: Material, name: str, title: str, note: str) -> str:
    rows, classes = grid_rows(material, name), material.pictures.get("shown.classes")
    source, width, height = atlas(rows)
    texts = "" if classes is None else _texts(material, np.unique(classes).tolist())
    return (f'<figure class="grid" data-rows="{len(rows)}" data-columns="{max(map(len, rows))}"><figcaption><b>'
            f'{escape(title)}</b> <span class="dim">{escape(note)}</span></figcaption><div class="cells"><img '
            f'src="{source}" width="{width}" height="{height}" alt="{escape(title, quote=True)} samples"></div>'
            f"{texts}</figure>")


def grid_rows(material: Material, name: str) -> list[np.ndarray]:
    """The rows of a grid of samples, (columns, C, H, W) each: by class or prompt, where there are some."""
    images, classes = material.pictures[name], material.pictures.get("shown.classes")
    height, width = images.shape[-2:]
    columns = _WIDE_COLUMNS if width > _WIDE * height else _COLUMNS if width <= 32 else _LARGE_COLUMNS
    if classes is None:
        return [images[i : i + columns] for i in range(0, min(len(images), columns * 10), columns)]
    return [images[classes == label][:columns] for label in np.unique(classes)]


def _texts(material: Material, rows: list[int]) -> str:
    """The prompts of the rows of a grid, in their order; nothing for classes."""
    prompts = material.document.prompts
    if not prompts:
        return ""
    items = "".join(f"<li>{escape(prompts.get(str(row), str(row)))}</li>" for row in rows)
    return f'<ol class="prompts">{items}</ol>'


def ways(materials: list[Material]) -> str:
    """From noise to sample: the teacher's states and the students', a row per sample."""
    blocks = []
    for material in teachers(materials):
        if "way.teacher" in material.pictures:
            evaluations = material.document.teacher.evaluations
            blocks.append(_way(material, "way.teacher", "teacher", counted(evaluations, "evaluation")))
    for material in materials:
        for row in material.document.student[: 4 if len(materials) == 1 else 1]:
            if f"way.student-{row.steps}" in material.pictures:
                name = "student" if len(materials) == 1 else material.label
                blocks.append(_way(material, f"way.student-{row.steps}", name, counted(row.steps, "step")))
    return f'<div class="ways">{"".join(blocks)}</div>' if blocks else ""


def _way(material: Material, name: str, title: str, note: str) -> str:
    states = material.pictures[name]
    chosen = np.unique(np.linspace(0, states.shape[1] - 1, min(_FRAMES, states.shape[1])).round().astype(int))
    source, width, height = atlas([row[chosen] for row in states])
    caption = f'<b>{escape(title)}</b> <span class="dim">{escape(note)}</span>'
    return (f'<figure class="way"><figcaption>{caption}</figcaption>'
            f'<img src="{source}" width="{width}" height="{height}" alt="{escape(title, quote=True)}: noise to sample">'
            f"</figure>")

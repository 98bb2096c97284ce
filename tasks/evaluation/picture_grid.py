"""grid.png: student, best solver at its cost and teacher, from the same noise, a row per class."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from fewstep.metrics.metric_names import counted, solver_name
from fewstep.metrics.sample_plan import SamplePlan
from fewstep.metrics.sample_set import Sampled
from fewstep.util.image_grid import Block, side_by_side
from tasks.evaluation.baseline_arrays import BaselineArrays
from tasks.evaluation.documents import Evaluation
from tasks.evaluation.solver_comparison import best_rival


def picture_grid(evaluation: Evaluation, plan: SamplePlan, samples: Mapping[int, Sampled], arrays: BaselineArrays,
                 columns: int) -> Image.Image:  # fmt: skip
    """The picture, of the student in its fewest steps, with at most `columns` samples of a class."""
    steps, teacher, kept = evaluation.first.steps, evaluation.teacher, arrays.shown.tolist()
    names, rows = _by_class(plan, kept, columns)
    width = min(len(row) for row in rows)
    rows = [row[:width] for row in rows]
    blocks = [Block("student", _take(samples[steps].images, rows), counted(steps, "step"))]
    rival = best_rival(evaluation, steps)
    if rival is not None:
        place = {index: position for position, index in enumerate(kept)}
        chosen = _take(arrays.pictures[rival.name], [[place[index] for index in row] for row in rows])
        blocks.append(Block(solver_name(rival.solver), chosen, counted(rival.evaluations, "evaluation")))
    blocks.append(Block("teacher", _take(arrays.teacher, rows),
                        f"{solver_name(teacher.solver)}, {counted(teacher.evaluations, 'evaluation')}"))  # fmt: skip
    return side_by_side(blocks, names)


def _by_class(plan: SamplePlan, kept: list[int], columns: int) -> tuple[list[str], list[list[int]]]:
    """Name and sample indices of every row; without classes, rows of the samples in turn."""
    if plan.classes is None:
        rows = [kept[i : i + columns] for i in range(0, min(len(kept), 10 * columns), columns)]
        return [""] * len(rows), rows
    by_row: dict[str, list[int]] = {}
    for index in kept:
        label, known = int(plan.classes[index]), plan.reference.class_names
        by_row.setdefault(known[label] if known else str(label), []).append(index)
    return list(by_row), [indices[:columns] for indices in by_row.values()]


def _take(images: Tensor, rows: list[list[int]]) -> Tensor:
    return torch.stack([images[row] for row in rows])

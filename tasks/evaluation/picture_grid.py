"""grid.png: student, best solver at its cost and teacher, from the same noise, a row per class."""

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from fewstep.metrics.metric_names import counted, solver_name
from fewstep.metrics.portraits import portraits
from fewstep.metrics.sample_plan import SamplePlan
from fewstep.metrics.sample_set import Sampled
from fewstep.util.image_grid import Block, side_by_side
from tasks.evaluation.baseline_arrays import BaselineArrays
from tasks.evaluation.documents import Evaluation
from tasks.evaluation.solver_comparison import best_rival

_TEXT = 36      # characters of a prompt beside its row


def picture_grid(evaluation: Evaluation, plan: SamplePlan, samples: Mapping[int, Sampled], arrays: BaselineArrays,
                 columns: int) -> Image.Image:  # fmt: skip
    """The picture, of the student in its fewest steps, with at most `columns` samples of a class."""
    steps, teacher, kept = evaluation.first.steps, evaluation.teacher, arrays.shown.tolist()
    names, rows = _by_class(plan, kept, columns, evaluation.prompts)
    width = min(len(row) for row in rows)
    rows = [row[:width] for row in rows]
    blocks = [Block("student", _shown(samples[steps].images, rows, evaluation.rate), counted(steps, "step"))]
    rival = best_rival(evaluation, steps)
    if rival is not None:
        place = {index: position for position, index in enumerate(kept)}
        chosen = _take(arrays.pictures[rival.name], [[place[index] for index in row] for row in rows])
        blocks.append(Block(solver_name(rival.solver), chosen, counted(rival.evaluations, "evaluation")))
    blocks.append(Block("teacher", _shown(arrays.teacher, rows, evaluation.rate),
                        f"{solver_name(teacher.solver)}, {counted(teacher.evaluations, 'evaluation')}"))  # fmt: skip
    return side_by_side(blocks, names)


def _by_class(plan: SamplePlan, kept: list[int], columns: int,
              prompts: Mapping[str, str]) -> tuple[list[str], list[list[int]]]:  # fmt: skip
    """Name and sample indices of every row, of one class or prompt; without either, rows of the samples in turn."""
    if plan.classes is None:
        rows = [kept[i : i + columns] for i in range(0, min(len(kept), 10 * columns), columns)]
        return [""] * len(rows), rows
    by_row: dict[int, list[int]] = {}
    for index in kept:
        by_row.setdefault(int(plan.classes[index]), []).append(index)
    known = dict(enumerate(plan.reference.class_names)) if plan.prompts is None else {
        row: _shortened(prompts[str(row)]) for row in by_row}  # fmt: skip
    return [known.get(label, str(label)) for label in by_row], [indices[:columns] for indices in by_row.values()]


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _shown(samples: Tensor, rows: list[list[int]], rate: float) -> Tensor:
    """Pictures of samples (n, …) as they are stored."""
    return torch.stack([portraits(samples[row], rate) for row in rows])


def _take(images: Tensor, rows: list[list[int]]) -> Tensor:
    return torch.stack([images[row] for row in rows])

"""report.safetensors: the pictures and distances that the report shows, as uint8 images and float64 distances."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fewstep.data.medium import IMAGES, to_bytes, to_stored
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.portraits import portraits
from fewstep.metrics.reference_images import NEAREST
from fewstep.metrics.sample_set import Sampled
from fewstep.students.student import Student
from fewstep.util.device import device_of
from tasks.evaluation.baseline_arrays import BaselineArrays
from tasks.evaluation.documents import Evaluation, baseline_name

CLOSEST = 12
"""Samples that are shown with their nearest training images."""


def report_arrays(evaluation: Evaluation, examination: Examination, student: Student, samples: Mapping[int, Sampled],
                  arrays: BaselineArrays, seed: int) -> dict[str, Tensor]:  # fmt: skip
    """The arrays by name; those of training images only beside real ones.

    `grid.MODEL`: samples `shown` from the same noise; `way.MODEL`: states from the noise on of the samples `followed`;
    `near.MODEL.SPACE` and `held_out.SPACE`: distances to the nearest training image; `closest.…`: samples, and held-out
    images, nearest to training images, with these and the distances. MODEL is `teacher`, `student-STEPS` or a solver's
    `SOLVER-EVALUATIONS`. Videos and sound are in these as pictures, and in `play.MODEL` as the samples `followed`.

    Args:
        samples: of the student by number of steps, fewest first.
        seed: of the noise that the student's sampler adds.
    """
    classes, reference = examination.plan.classes, examination.images.observed
    shown, followed = arrays.shown, arrays.followed
    found = {"shown": shown, "followed": followed, "grid.teacher": portraits(arrays.teacher[shown], evaluation.rate),
             "way.teacher": arrays.trajectories}  # fmt: skip
    if classes is not None:
        found |= {"shown.classes": classes[shown], "followed.classes": classes[followed]}
    for steps, sampled in samples.items():
        name = f"student-{steps}"
        found[f"grid.{name}"] = portraits(sampled.images[shown], evaluation.rate)
        found[f"way.{name}"] = _way(student, steps, examination, followed, sampled.images[followed], seed)
        chosen = evaluation.comparisons[str(steps)]
        if chosen.solver:
            rival = baseline_name(chosen.solver, chosen.evaluations)
            found[f"grid.{rival}"] = arrays.pictures[rival]
    if evaluation.medium != IMAGES:
        found["play.teacher"] = arrays.teacher[followed]
        found |= {f"play.student-{steps}": sampled.images[followed] for steps, sampled in samples.items()}
    if not examination.drawn:
        found |= {"held_out.pixels": torch.from_numpy(reference.nearest),
                  "held_out.features": torch.from_numpy(reference.nearest_features)}
        for steps, sampled in samples.items():
            found[f"near.student-{steps}.pixels"] = torch.from_numpy(sampled.seen.nearest)
            found[f"near.student-{steps}.features"] = torch.from_numpy(sampled.seen.nearest_features)
        found |= _closest(examination, samples[evaluation.first.steps])
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _closest(examination: Examination, first: Sampled) -> dict[str, Tensor]:
    """The samples in the fewest steps, and the held-out images, that are nearest to training images."""
    images, found = examination.images, {}
    held_out = torch.cat([to_bytes(images.test.images(rows))
                          for rows in torch.arange(min(len(images.test), NEAREST)).split(500)])  # fmt: skip
    for name, stack, distances in (("samples", first.images, first.seen.nearest),
                                   ("held_out", held_out, images.observed.nearest)):  # fmt: skip
        rows = torch.from_numpy(distances).argsort(stable=True)[:CLOSEST]
        numbers, far = images.nearest_training(stack[rows])
        found[f"closest.{name}"] = stack[rows]
        found[f"closest.{name}.training"] = to_bytes(images.train.images(torch.from_numpy(numbers)))
        found[f"closest.{name}.distance"] = torch.from_numpy(far)
    return found


def _way(student: Student, steps: int, examination: Examination, indices: Tensor, samples: Tensor, seed: int) -> Tensor:
    """(n, steps + 1, C, H, W) uint8: pictures of the student's states before each evaluation, at unit variance, and of
    its samples."""
    plan, states, device = examination.plan, [], device_of(student.denoiser)

    def keep(x: Tensor, t: float) -> None:
        scale = student.denoiser.process.scale(torch.tensor(t, dtype=torch.float64)).clamp(min=1)
        states.append(portraits(to_stored(examination.decode(x / float(scale))), examination.rate))

    classes = None if plan.classes is None else plan.classes[indices].to(device)
    student.sample(plan.noise(indices).to(device), steps=steps, condition=classes, seed=seed, indices=indices,
                   on_state=keep)  # fmt: skip
    return torch.stack([*states, portraits(samples, examination.rate)], dim=1)

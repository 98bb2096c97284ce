"""What keeps students from an aim that they miss, as far as the report's own figures tell it."""

from __future__ import annotations

from collections.abc import Sequence

from examples.emoji.measure import Measured
from examples.emoji.settings import STUDENT_STEPS

ABOVE_FLOOR, FASTER = 1.5, 8.0
"""Aims: a student's FD above the floor, and its speed, as multiples of the teacher's."""


def with_error(one: Measured) -> str:
    """FD and its standard error."""
    return f"{one.frechet[0]:.2f} ± {one.frechet[1]:.2f}"


def above_floor(one: Measured, models: Sequence[Measured]) -> float:
    """Its FD above that of real pictures, as a multiple of the teacher's."""
    real, teacher = _named(models, "real pictures").frechet[0], _named(models, "teacher").frechet[0]
    return (one.frechet[0] - real) / max(teacher - real, 1e-9)


def best_solver(models: Sequence[Measured]) -> Measured:
    """The training-free solver that comes closest in as many evaluations as a student takes."""
    return min(_solvers(models), key=lambda one: one.frechet[0])


def limits(models: Sequence[Measured], images: int, batch: int) -> list[str]:
    """Paragraphs; `images`: that each student was trained on, in steps of `batch`."""
    return [*_of_solvers(models), *_of_distance(models, images, batch), *_of_speed(models)]


def _of_solvers(models: Sequence[Measured]) -> list[str]:
    """Why no student is ahead of the solvers, where it is the teacher that they imitate."""
    teacher, best = _named(models, "teacher"), best_solver(models)
    if best.frechet[0] - teacher.frechet[0] > teacher.frechet[1] + best.frechet[1]:
        return []
    return ["", f"In {STUDENT_STEPS} evaluations {best.name}, is as close to real pictures ({with_error(best)}) as "
            f"the teacher at its full steps ({with_error(teacher)}): in FD these pictures leave a student nothing to "
            "be ahead in, and how near it comes is what the table shows."]  # fmt: skip


def _of_distance(models: Sequence[Measured], images: int, batch: int) -> list[str]:
    """Students that stay too far from real pictures, beside those that do not."""
    far = [one.name for one in _students(models) if above_floor(one, models) > ABOVE_FLOOR]
    near = [one.name for one in _students(models) if one.name not in far]
    if not far:
        return []
    guided = min((one.frechet[0] for one in _solvers(models) if one.name.endswith(", guided")), default=None)
    than = "" if guided is None else (f" A solver of the guided teacher, which they imitate, is at {guided:.2f} in as "
                                      "many evaluations.")  # fmt: skip
    others = (f" The same teacher, samples and number of steps are enough for {_listed(near)}: what is short is what "
              f"{_listed(far)} learns in so many steps." if near else "")  # fmt: skip
    return ["", f"FD of {_listed(far)}: each student has had {images:,} samples, {images // batch:,} steps of {batch}."
            f"{others}{than} Whether more steps would close the gap was not measured."]  # fmt: skip


def _of_speed(models: Sequence[Measured]) -> list[str]:
    """Students that are not quick enough, beside what is possible: what a picture takes is a part for each evaluation
    and a part that no student saves, told apart by the solvers that are not guided (as students are) and the teacher.
    """
    teacher, seconds = _named(models, "teacher"), {one.name: 1 / one.images_per_second for one in models
                                                   if one.images_per_second}  # fmt: skip
    slow = [one.name for one in _students(models) if seconds[teacher.name] < FASTER * seconds[one.name]]
    plain = [seconds[one.name] for one in _solvers(models) if not one.name.endswith(", guided")]
    if not slow or not plain:
        return []
    few = sum(plain) / len(plain)
    each = (seconds[teacher.name] - few) / (teacher.evaluations - STUDENT_STEPS)
    rest = few - STUDENT_STEPS * each
    told = "; ".join(f"{name} takes {1e3 * seconds[name]:.1f} ms" for name in slow)
    return ["", f"Speed: {STUDENT_STEPS} evaluations in the place of {teacher.evaluations} are "
            f"{teacher.evaluations / STUDENT_STEPS:.0f} times as fast at most. The solvers that are not guided make a "
            f"picture in {1e3 * few:.1f} ms, the teacher in {1e3 * seconds[teacher.name]:.1f} ms: {1e3 * each:.1f} ms "
            f"for each evaluation, and {1e3 * rest:.1f} ms (the autoencoder, the loop) that no student saves, so that "
            f"{seconds[teacher.name] / few:.1f} times as fast is what {STUDENT_STEPS} evaluations of this network can "
            f"be. Beyond that, {told}: what the student's own network adds (adapters beside the weights, a scale as an "
            "input), and what else the machine did."]  # fmt: skip


def _students(models: Sequence[Measured]) -> list[Measured]:
    return [one for one in models if one.name.startswith("`")]


def _solvers(models: Sequence[Measured]) -> list[Measured]:
    return [one for one in models if one.evaluations == STUDENT_STEPS and not one.name.startswith("`")]


def _named(models: Sequence[Measured], name: str) -> Measured:
    return next(one for one in models if one.name == name)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

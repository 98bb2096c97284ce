"""The student against training-free solvers and the teacher, by distance and by equal cost."""

from collections.abc import Mapping

from torch import Tensor

from fewstep.metrics.comparison.equal_evaluations import equivalent_evaluations
from fewstep.metrics.distances.frechet import Extrapolated
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.protocol import Value, rounded
from fewstep.metrics.sample_set import Sampled
from tasks.evaluation.baseline_arrays import BaselineArrays
from tasks.evaluation.documents import Baselines, Comparison, Equality, SolverRow


def compare(examination: Examination, steps: int, values: Mapping[str, Value], sampled: Sampled, fd: Extrapolated,
            baselines: Baselines, arrays: BaselineArrays) -> Comparison:  # fmt: skip
    """The student with `steps` steps against the best solver at its cost, the teacher, and every solver's curve.

    Args:
        values: the student's, and
        sampled: the samples that they are of.
        fd: their extrapolated Fréchet distance, with replicates.
    """
    against = {}
    rival = best_rival(baselines, steps)
    if rival is not None:
        known = baselines.restored(rival)
        paired = examination.paired_kid(sampled.seen.features, arrays.features[rival.name].numpy(),
                                        examination.plan.classes)  # fmt: skip
        against = {
            "solver": rival.solver, "evaluations": rival.evaluations,
            "fd_ratio": _ratio(values["fd_infinite"], known["fd_infinite"]),
            "kid_ratio": _ratio(values["kid"], known["kid"]),
            "kid_difference": rounded(paired.value), "kid_difference_error": rounded(paired.standard_error),
        }  # fmt: skip
    floor, teacher = baselines.restored(baselines.floor), baselines.restored(baselines.teacher)
    equals = equalities(baselines, arrays.replicates, fd)
    reached = [name for name, found in equals.items() if found.evaluations is not None]
    nearest = min(reached, key=lambda name: equals[name].evaluations, default=None)
    return Comparison(
        **against,
        fd_excess=rounded(values["fd_infinite"].above_floor(floor["fd_infinite"])),
        fd_excess_teacher=rounded(teacher["fd_infinite"].above_floor(floor["fd_infinite"])),
        kid_excess=rounded(values["kid"].above_floor(floor["kid"])),
        kid_excess_teacher=rounded(teacher["kid"].above_floor(floor["kid"])),
        equals=equals,
        equals_solver=nearest,
        equals_evaluations=nearest and equals[nearest].evaluations,
    )


def best_rival(baselines: Baselines, evaluations: int) -> SolverRow | None:
    """The solver with the least Fréchet distance at this many network evaluations, else at the nearest lower count;
    None where nothing is as cheap."""
    affordable = [row for row in baselines.rows if row.values and row.evaluations <= evaluations]
    most = max((row.evaluations for row in affordable), default=None)
    rivals = [row for row in affordable if row.evaluations == most]
    return min(rivals, key=lambda row: row.values["fd_infinite"].value, default=None)


def equalities(baselines: Baselines, replicates: Mapping[str, Tensor], fd: Extrapolated) -> dict[str, Equality]:
    """By solver, the interpolated number of network evaluations at which its Fréchet distance equals the student's."""
    equals = {}
    for solver in baselines.solvers:
        rows = sorted((row for row in baselines.rows if row.solver == solver and row.values),
                      key=lambda row: row.evaluations)  # fmt: skip
        if rows:
            counts = [row.evaluations for row in rows]
            found = equivalent_evaluations(
                counts, [row.values["fd_infinite"].value for row in rows],
                [replicates[row.name].numpy() for row in rows], fd.infinite, fd.replicates,
            )  # fmt: skip
            point, low, high = (None if x is None else rounded(x) for x in (found.evaluations, found.low, found.high))
            equals[solver] = Equality(evaluations=point, low=low, high=high, tried=(counts[0], counts[-1]))
    return equals


def _ratio(mine: Value, rival: Value) -> float | None:
    """None where the rival's unbiased estimate is not positive."""
    return rounded(mine.over(rival)) if rival.value > 0 else None

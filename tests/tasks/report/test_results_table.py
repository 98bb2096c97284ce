"""The sentence that says which training-free setting a student equals, and how much faster it is."""

import pytest

from fewstep.metrics.protocol import Sampling
from tasks.evaluation.costs import StageCost, Timing
from tasks.evaluation.documents import Comparison, Equality, StudentRow
from tasks.report import results_table


def compared(evaluations: float | None, low: float | None, high: float | None, mine: float | None = 2.0):
    equals = {"dpmsolver++": Equality(evaluations=evaluations, low=low, high=high, tried=(1, 16))}
    solvers = {f"dpmsolver++-{n}": Timing(latency_ms=1.7 * n) for n in (1, 2, 4, 8, 16)}
    student = {"1": Timing(latency_ms=mine)} if mine else {}
    return (Comparison(equals=equals, equals_solver=evaluations and "dpmsolver++", equals_evaluations=evaluations),
            {"evaluate": StageCost(student=student), "baselines": StageCost(solvers=solvers)})  # fmt: skip


ROW = StudentRow(subject="student, 1 step", values={}, steps=1, evaluations=1,
                 sampling=Sampling(solver="ode", steps=1, evaluations=1))  # fmt: skip


@pytest.mark.parametrize(("found", "sentence"), [
    (compared(14, 9.1, None), "1 step = DPM-Solver++ at 14 evaluations (95 %: 9.1 to 16 or more), 11.9 times faster"),
    (compared(3.04, 2.6, 3.4), "1 step = DPM-Solver++ at 3 evaluations (95 %: 2.6 to 3.4), 2.58 times faster"),
    (compared(1, None, 1.2, 1.75), "1 step = DPM-Solver++ at 1 evaluation (95 %: 1 to 1.2), as fast"),
    (compared(1, None, 1.2, 3.4), "1 step = DPM-Solver++ at 1 evaluation (95 %: 1 to 1.2), 2 times slower"),
    (compared(14, 9.1, None, None), "1 step = DPM-Solver++ at 14 evaluations (95 %: 9.1 to 16 or more), "
                                    "14 times cheaper"),
    (compared(None, None, None), "No training-free setting that was tried is as good as 1 step"),
])  # fmt: skip
def test_the_setting_that_a_student_equals(found, sentence):
    assert results_table.equivalence(ROW, *found) == sentence


def test_latency_between_two_counts_is_in_proportion():
    assert results_table.speedup(ROW, *compared(6, 5, 7)) == pytest.approx(1.7 * 6 / 2)
    assert results_table.speedup(ROW, *compared(20, 5, 7)) is None

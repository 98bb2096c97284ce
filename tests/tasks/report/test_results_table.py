"""The sentence that says which training-free setting a student equals, and how much faster it is."""

import pytest

from tasks.report import results_table


def document(evaluations: float | None, low: float | None, high: float | None, mine: float | None = 2.0) -> dict:
    equals = {"dpmsolver++": {"evaluations": evaluations, "low": low, "high": high, "tried": [1, 16]}}
    solvers = {f"dpmsolver++-{n}": {"latency_ms": 1.7 * n} for n in (1, 2, 4, 8, 16)}
    student = {"student": {"1": {"latency_ms": mine}}} if mine else {}
    return {"comparisons": {"1": {"equals": equals, "equals_solver": evaluations and "dpmsolver++",
                                  "equals_evaluations": evaluations}},
            "cost": {"evaluate": student, "baselines": {"solvers": solvers}}}  # fmt: skip


ROW = {"steps": 1, "evaluations": 1}


@pytest.mark.parametrize(("found", "sentence"), [
    (document(14, 9.1, None), "1 step = DPM-Solver++ at 14 evaluations (95 %: 9.1 to 16 or more), 11.9 times faster"),
    (document(3.04, 2.6, 3.4), "1 step = DPM-Solver++ at 3 evaluations (95 %: 2.6 to 3.4), 2.58 times faster"),
    (document(1, None, 1.2, 1.75), "1 step = DPM-Solver++ at 1 evaluation (95 %: 1 to 1.2), as fast"),
    (document(1, None, 1.2, 3.4), "1 step = DPM-Solver++ at 1 evaluation (95 %: 1 to 1.2), 2 times slower"),
    (document(14, 9.1, None, None), "1 step = DPM-Solver++ at 14 evaluations (95 %: 9.1 to 16 or more), "
                                    "14 times cheaper"),
    (document(None, None, None), "No training-free setting that was tried is as good as 1 step"),
])  # fmt: skip
def test_the_setting_that_a_student_equals(found, sentence):
    assert results_table.equivalence(found, ROW) == sentence


def test_latency_between_two_counts_is_in_proportion():
    assert results_table.speedup(document(6, 5, 7), ROW) == pytest.approx(1.7 * 6 / 2)
    assert results_table.speedup(document(20, 5, 7), ROW) is None

"""What a contest's figures lead to: better, as good and cheaper, as good and no cheaper, worse, or not to be told."""

import pytest

from fewstep.metrics.comparison.noninferiority import Contrast, judge
from fewstep.metrics.speed_ratio import Ratio
from tasks.config.schema import Gate
from tasks.registry.gate import champion_test
from tasks.registry.gate.contest_figures import CostFigures
from tasks.registry.model_registry import Version

CHAMPION = Version("fewstep-toy", 1, {}, (), None, "")
BETTER, SAME, WORSE, WEAK = (-1.0, 0.1), (0.0, 0.1), (2.0, 0.1), (0.0, 5.0)


def verdict(*found, evaluations=(2, 2), parameters=(100, 100), latency=(1.0, (0.9, 1.1))):
    judged = judge([Contrast("kid", str(i), excess, error, 50, 0.5, 0, 0) for i, (excess, error) in enumerate(found)],
                   0.05, 0.8)  # fmt: skip
    cost = CostFigures(evaluations=evaluations, parameters=parameters)
    kind, reasons, _ = champion_test.verdict(judged, CHAMPION, cost, Gate(), lambda: Ratio(*latency, 41))
    assert bool(kind) == bool(reasons)
    return kind


def test_better_somewhere_and_worse_nowhere_wins():
    assert verdict(BETTER, SAME) == "" and verdict(BETTER, WORSE) == "inferior"
    assert verdict(BETTER, WEAK) == "power" and verdict(WEAK, WORSE) == "inferior"


@pytest.mark.parametrize(("cost", "kind"), [
    ({}, "equal"),
    ({"evaluations": (1, 2)}, ""),
    ({"parameters": (89, 100)}, ""),
    ({"parameters": (95, 100)}, "equal"),
    ({"evaluations": (4, 2), "parameters": (50, 100)}, ""),
    ({"latency": (0.8, (0.7, 0.89))}, ""),
    ({"latency": (0.8, (0.7, 0.91))}, "equal"),  # the interval does not clear the share
])  # fmt: skip
def test_as_good_needs_to_be_cheaper(cost, kind):
    assert verdict(SAME, SAME, **cost) == kind
    assert verdict(WORSE, SAME, **cost) == "inferior", "no saving makes up for a figure that is worse"

"""Observations are stored as arrays by name."""

import numpy as np

from fewstep.metrics.observed import Observed


def test_observed_survives_its_names():
    seen = Observed(np.ones((3, 2)), None, np.ones(3), np.zeros(3), {"clip": np.ones((3, 4))})
    again = Observed.of(seen.tensors())
    assert again.classes is None and np.array_equal(again.more["clip"], seen.more["clip"])

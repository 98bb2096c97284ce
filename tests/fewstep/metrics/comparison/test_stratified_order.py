"""Every contiguous part of the order has its share of every class."""

import numpy as np

from fewstep.metrics.comparison.stratified_order import mixed, proportionate

LABELS = np.sort(np.random.default_rng(0).choice(4, 600, p=[0.5, 0.3, 0.15, 0.05]))


def test_an_order_is_a_keyed_permutation():
    first, second, other = (mixed(600, LABELS, seed, "x") for seed in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert np.array_equal(np.sort(first), np.arange(600))
    assert np.array_equal(np.sort(mixed(600, None, 1, "x")), np.arange(600))


def test_parts_have_the_classes_of_the_whole():
    whole = np.bincount(LABELS, minlength=4) / 600
    for part in np.array_split(LABELS[mixed(600, LABELS, 3, "x")], 6):
        assert np.abs(np.bincount(part, minlength=4) / len(part) - whole).max() <= 0.021


def test_a_choice_in_given_proportions_is_as_large_as_it_can_be():
    wanted = np.repeat([0, 1, 2, 3], [40, 40, 20, 10])
    rows = proportionate(LABELS, wanted, 1, "x")
    found, here = np.bincount(LABELS[rows]), np.bincount(LABELS)
    assert len(set(rows.tolist())) == len(rows)
    assert (np.abs(found / found.sum() - np.array([40, 40, 20, 10]) / 110) < 0.01).all()
    assert (here - found).min() <= 1
    assert proportionate(LABELS[LABELS < 3], wanted, 1, "x") is None

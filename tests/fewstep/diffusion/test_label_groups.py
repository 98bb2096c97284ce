"""Groups of classes: the chain of every label, and what is refused."""

import pytest

from fewstep.diffusion.guidance import calls, is_guided, told
from fewstep.diffusion.label_groups import chains, conditions, require_groups
from fewstep.util.errors import SettingsError


def test_without_groups_a_class_is_one_condition():
    assert chains(3, ()) == [[3, 3, 3, 3], [0, 1, 2, 3]]


def test_a_chain_goes_from_none_by_the_widest_group_to_the_class():
    """Classes 0 … 5; 7 is (0, 1), 8 is (0 … 3), 9 is (4, 5): two conditions for 4 and 5, three for 0 and 1."""
    groups = require_groups([(1, 0), (0, 1, 2, 3), (5, 4)], 6, 6)
    table = list(zip(*chains(6, groups), strict=True))
    assert conditions(groups) == 3
    assert [list(table[label]) for label in (0, 2, 4)] == [[6, 8, 7, 0], [6, 8, 2, 2], [6, 9, 4, 4]]
    assert [list(table[label]) for label in (6, 7, 8)] == [[6, 6, 6, 6], [6, 8, 7, 7], [6, 8, 8, 8]]


@pytest.mark.parametrize(
    ("groups", "null", "message"),
    [
        ([(0, 1), (1, 2)], 4, "nested or have no class in common"),
        ([(0, 1), (1, 0)], 4, "nested or have no class in common"),
        ([(0,)], 4, "two or more of the 4 classes"),
        ([(0, 0)], 4, "two or more of the 4 classes"),
        ([(0, 1, 2, 3)], 4, "not of all"),
        ([(0, 4)], 4, r"got \[0, 4\]"),
        ([(0, 1)], None, "label 4 for no class, this network has None"),
    ],
)
def test_groups_that_make_no_chain_are_refused(groups, null, message):
    with pytest.raises(SettingsError, match=message):
        require_groups(groups, 4, null)


def test_scales_cost_one_call_each_and_one_more():
    assert [calls(scales) for scales in (1.0, 2.0, (1.0, 1.0), (1.0, 2.0), [1, 1, 3])] == [1, 2, 1, 3, 4]
    assert [is_guided(scales) for scales in (1, 1.0, 0.0, (1.0, 1.0), [1.0, 2.0])] == [False, False, True, False, True]
    assert (told(2.0), told((1.5, 3))) == ("2", "1.5, 3")

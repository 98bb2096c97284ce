"""Draws are a function of seed, round, step and name, and a part of a batch has the rows of the whole."""

import torch

from fewstep.training.step.keyed_draws import Draws, PartDraws


def test_draws_depend_on_everything_but_the_order_they_are_asked_in():
    device = torch.device("cpu")
    one, other = Draws(0, 0, 3, 4, device), Draws(0, 0, 3, 4, device)
    a = one.normal("a", (2,))
    other.normal("b", (2,))
    assert torch.equal(a, other.normal("a", (2,))) and one.normal("a", (2,)) is a
    for changed in (Draws(1, 0, 3, 4, device), Draws(0, 1, 3, 4, device), Draws(0, 0, 4, 4, device)):
        assert not torch.equal(a, changed.normal("a", (2,)))
    assert not torch.equal(one.uniform("a"), one.gaussian("a"))


def test_a_part_has_the_rows_of_the_whole_batch():
    whole = Draws(0, 0, 3, 6, torch.device("cpu"))
    parts = [PartDraws(whole, slice(first, first + 2), (3,)) for first in (0, 2, 4)]
    assert [part.size for part in parts] == [2, 2, 2] and parts[1].rows.tolist() == [0, 1]
    for name in ("uniform", "gaussian", "normal"):
        drawn = torch.cat([getattr(part, name)("a") for part in parts])
        assert torch.equal(drawn, whole.normal("a", (3,)) if name == "normal" else getattr(whole, name)("a"))
    assert torch.equal(torch.cat([part.integers("a", 9) for part in parts]), whole.integers("a", 9))
    assert len({part.integer("a", 1 << 30) for part in parts}) == 1

"""What a paper sets over its recipe: every recipe's resolves, sets what it says, and gives way to who runs it."""

import pytest

from fewstep.recipes import Overrides, load_recipe, parse_recipe, recipe_names
from fewstep.util.errors import SettingsError

TERM = {"term": "distribution_matching"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_published_preset_resolves_and_is_what_the_paper_sets(name):
    small = load_recipe(name)
    told, made = small.published, small.preset("published")
    assert small.preset("small") == small
    for value, found in (
        (told.optimiser, made.optimiser.kind), (told.lr, made.optimiser.lr), (told.schedule, made.optimiser.schedule),
        (told.batch, made.training.batch), (told.ema, made.training.ema), (told.steps, made.student.steps),
    ):  # fmt: skip
        assert value is None or value == found
    terms = [term for own in made.rounds for term in own.terms]
    for term, weight in told.weights.items():
        assert {one.weight for one in terms if one.term == term} == {weight}
    for role, turns in told.turns.items():
        assert {own.turns[role] for own in made.rounds if role in own.turns} == {turns}
    for role, rate in told.role_lr.items():
        scales = {own.roles[role].lr_scale for own in made.rounds if role in own.roles}
        assert [scale * made.optimiser.lr for scale in scales] == [pytest.approx(rate)]
    if told.guidance is not None:
        assert {one.guidance for one in terms if hasattr(one, "guidance")} == {told.guidance}
    if name != "twinflow":  # whose average is the paper's already
        assert (made.resolved() != small.resolved()) == bool(told.sets)


def test_what_a_run_sets_stands_over_the_paper():
    made = load_recipe("dmd2").preset("published").override(Overrides(lr=3e-4, batch=16))
    assert (made.optimiser.lr, made.training.batch) == (3e-4, 16)
    assert {term.weight for own in made.rounds for term in own.terms if term.term == "adversarial"} == {3e-3}


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"weights": {"adversarial": 0.1}}, "weights.adversarial"), ({"turns": {"critic": 2}}, "turns.critic"),
        ({"role_lr": {"critic": 1e-3}}, "role_lr.critic"), ({"rank": 64}, "rank"), ({"lr": "1e-2 of the grid"}, "lr"),
    ],
)  # fmt: skip
def test_what_the_recipe_cannot_take_is_refused_when_it_is_read(published, said):
    data = {"name": "own", "published": published,
            "rounds": [{"terms": [TERM], "turns": {"fake_score": 1, "student": 1}}]}  # fmt: skip
    with pytest.raises(SettingsError, match=said):
        parse_recipe(data, "own.yaml")
    notes = {"rank": 64, "lr": "1e-2 of the grid"}
    assert parse_recipe(data | {"published": {"notes": notes}}, "own.yaml").preset("published").resolved() \
        == parse_recipe(data | {"published": {}}, "own.yaml").resolved()

"""What a paper sets over its recipe: every recipe's resolves, sets what it says, and gives way to who runs it."""

import pytest

from fewstep.recipes import Overrides, load_recipe, parse_recipe, recipe_names
from fewstep.util.errors import SettingsError
from tasks.config.recipe_needs import recipe_needs
from tasks.config.schema import Settings

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
        assert set(made.all_guidance) == {told.guidance}
    held(made.student.model_dump(mode="json"), told.student)
    for term, changes in told.terms.items():
        of_name = [one.model_dump(mode="json") for one in terms if one.term == term]
        assert of_name
        for one in of_name:
            held(one, changes)
    if told.inputs is not None:
        assert {own.inputs for own in made.rounds} == {told.inputs}
    if name != "twinflow":  # whose average is the paper's already
        assert (made.resolved() != small.resolved()) == bool(told.sets)


def held(found: dict, told: dict) -> None:
    """What is told stands in what was found."""
    for key, value in told.items():
        if isinstance(value, dict):
            held(found[key], value)
        else:
            assert found[key] == value, key


def test_times_ranges_of_guidance_and_the_decay_of_a_target_are_the_papers():
    lcm, dmd2 = (load_recipe(name).preset("published") for name in ("lcm", "dmd2"))
    scales, term = lcm.student.guidance_input, lcm.rounds[0].terms[0]
    assert (scales.low, scales.high) == (4, 16) and term.target_ema == 0.95
    assert (term.points.levels.cells, term.points.levels.spacing) == (50, "native")
    times = [one.times.model_dump() for one in dmd2.rounds[0].terms]
    assert times == [{"kind": "uniform", "low": 0.02, "high": 0.98}] * 2    # nothing is left of the lognormal ones
    assert load_recipe("lcm-lora").preset("published").rounds[0].terms[0].target_ema is None


def test_guidance_is_of_the_teacher_and_not_of_a_student_that_takes_its_place():
    made = load_recipe("sdxl-lightning").preset("published")
    assert [[term.hop.guidance for term in own.terms] for own in made.rounds] == [[6], [1, 1], [1, 1], [1, 1]]


def test_what_the_paper_needs_is_made_before(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("""
published: {terms: {adversarial: {real: pairs}}}
student: {init: random}
rounds: [{turns: {student: 1, discriminator: 1}, terms: [{term: adversarial, features: samples, times: null}]}]
""")
    for preset, words in (("small", ["real data"]), ("published", ["teacher", "pairs"])):
        settings = Settings.model_validate({"distill": {"recipe": str(path), "preset": preset}})
        assert recipe_needs(settings).words() == words


def test_what_a_run_sets_stands_over_the_paper():
    made = load_recipe("dmd2").preset("published").override(Overrides(lr=3e-4, batch=16))
    assert (made.optimiser.lr, made.training.batch) == (3e-4, 16)
    assert {term.weight for own in made.rounds for term in own.terms if term.term == "adversarial"} == {3e-3}


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ({"weights": {"adversarial": 0.1}}, "weights.adversarial"), ({"turns": {"critic": 2}}, "turns.critic"),
        ({"role_lr": {"critic": 1e-3}}, "role_lr.critic"), ({"rank": 64}, "rank"), ({"lr": "1e-2 of the grid"}, "lr"),
        ({"terms": {"regression": {"weight": 2}}}, "terms.regression"),
        ({"terms": {"distribution_matching": {"tims": None}}}, "as published: rounds.0.terms.0.*tims"),
        ({"student": {"lora": {"rank": 0}}}, "as published: student.lora.rank"), ({"inputs": "noise"}, "inputs"),
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

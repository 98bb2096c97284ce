"""Recipes load without torch, refuse what they do not know, and say what they need."""

import subprocess
import sys

import pytest

from fewstep.recipes import Needs, Overrides, check_needs, load_recipe, parse_recipe, recipe_names
from fewstep.recipes.published import Published
from fewstep.util.errors import SettingsError

NEEDS = {name: needs for needs, names in (
    (Needs(pairs=True, teacher=True), (
        "kd", "reflow", "ladd", "instaflow", "dmd", "lora-guidance", "slimflow", "hipa", "plug-and-play"
    )),
    (Needs(data=True, teacher=True), (
        "ect", "dmd2", "msd", "sdxl-lightning", "progressive", "add", "cd", "scm", "sana-sprint", "ctm", "lcm", "pcm",
        "scott", "tcm", "f-distill", "laptop-diff", "lcm-lora"
    )),
    (Needs(teacher=True), ("disback", "boot", "diff-instruct", "sid", "tdm")),
    (Needs(data=True), ("ict", "ct")),
    (Needs(pairs=True, states="all", teacher=True), ("tbcm", "std")),
) for name in names}  # fmt: skip


@pytest.mark.parametrize("name", NEEDS)
def test_every_recipe_loads_survives_a_round_trip_and_states_its_needs(name):
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.summary and recipe.reference.arxiv
    assert recipe.needs == NEEDS[name]
    assert parse_recipe(recipe.model_dump(mode="json"), "again") == recipe
    assert name in recipe_names()


def test_recipes_are_read_without_torch():
    code = "import sys; from fewstep.recipes import *; [load_recipe(n) for n in recipe_names()];"
    code += " print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean 'dmd2'"):
        load_recipe("dmd22")


def test_an_unknown_key_names_the_nearest_and_where(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("rounds: [{terms: [{term: regression, distanse: l2}]}]")
    with pytest.raises(SettingsError, match=r"mine.yaml: rounds.0.terms.0.*distanse: .*did you mean 'distance'"):
        load_recipe(path)


def test_a_recipe_of_ones_own_takes_its_name_from_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("rounds: [{terms: [{term: regression}]}]")
    assert load_recipe(path).name == "mine"
    assert load_recipe(path).needs == Needs(pairs=True, teacher=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rounds": []}, "rounds"),
        ({"rounds": [{"terms": [{"term": "regresion"}]}]}, "regression"),
        ({"rounds": [{"turns": {"critic": 1, "student": 1}, "terms": [{"term": "regression"}]}]}, "critic"),
        ({"rounds": [{"terms": [{"term": "distribution_matching"}]}]}, "'fake_score' has no turn"),
        ({"rounds": [{"terms": [{"term": "adversarial"}]}]}, "needs the role 'fake_score'"),
        ({"rounds": [{"teacher": "previous", "terms": [{"term": "regression"}]}]}, "no round before the first"),
        ({"student": {"steps": 2}, "rounds": [{"terms": [{"term": "regression"}]}]}, "single step"),
        ({"rounds": [{"terms": [{"term": "regression"}]}, {"teacher": "recorded", "terms": [{"term": "regression"}]}]},
         "records no checkpoints"),
        ({"students": 2, "rounds": [{"terms": [{"term": "regression"}]}]}, "each of the students 1 ... 2"),
        ({"rounds": [{"student": 2, "terms": [{"term": "regression"}]}]}, "each of the students 1 ... 1"),
        ({"rounds": [{"merge": [{"round": 1, "weight": 0.5}], "terms": [{"term": "regression"}]}]}, "earlier rounds"),
        ({"rounds": [{"record": {"role": "critic"}, "terms": [{"term": "regression"}]}]}, "record: role 'critic'"),
        ({"rounds": [{"times_steps": 2, "terms": [{"term": "regression"}]}]}, "times_steps: the last round"),
        ({"training": {"batch": 9, "accumulate": 2}, "rounds": [{"terms": [{"term": "regression"}]}]}, "not divide"),
        ({"target": "tilted", "flow_map": True, "rounds": [{"terms": [{"term": "regression"}]}]}, "flow_map: a tilted"),
        ({"target": "tiltd", "rounds": [{"terms": [{"term": "regression"}]}]}, "target: expected few-step"),
        ({"optimiser": {"lr": -1}, "rounds": [{"terms": [{"term": "regression"}]}]}, "optimiser.lr"),
    ],
)
def test_what_does_not_fit_together_is_refused(data, message):
    with pytest.raises(SettingsError, match=message):
        parse_recipe({"name": "x", **data}, "x.yaml")


def test_what_a_recipe_says_of_itself_does_not_change_what_it_is():
    recipe = load_recipe("dmd2")
    told = {"summary": "other", "published": Published(lr=1.0), "target": "guided", "flow_map": True, "status": "own"}
    assert recipe.model_copy(update=told).resolved() == recipe.resolved()
    assert (recipe.target, recipe.flow_map, load_recipe("kd").flow_map) == ("few-step", False, True)


def test_needs_that_are_not_met_are_refused():
    with pytest.raises(SettingsError, match="ect needs real data"):
        check_needs(load_recipe("ect"), data=False, pairs=True)
    with pytest.raises(SettingsError, match="kd needs cached pairs"):
        check_needs(load_recipe("kd"), data=True, pairs=False)


def test_every_override_changes_the_recipe_and_is_validated():
    recipe = load_recipe("ect")
    values = {"steps": 2, "batch": 64, "parts": 2, "accumulate": 2, "lr": 0.5, "schedule": "linear", "warmup": 0.5,
              "clip": 0.25, "ema": 0.5, "precision": "bfloat16",
              "frozen": "bfloat16", "guided_calls": "sequential", "moments": "8bit"}  # fmt: skip
    assert values.keys() == Overrides.model_fields.keys()
    for key, value in values.items():
        recipe = load_recipe("kd" if key == "moments" else "ect")    # which AdamW trains
        assert recipe.override(Overrides(**{key: value})) != recipe, key
    with pytest.raises(SettingsError, match="single step"):
        load_recipe("kd").override(Overrides(steps=2))


def test_images_are_shared_among_rounds_in_whole_batches():
    recipe = load_recipe("reflow")
    assert recipe.images_of(0, 2560) == recipe.images_of(1, 2560) == 1280
    assert load_recipe("dmd2").images_of(0, 1) == 6 * 64  # at least one cycle of turns


def test_a_recipe_is_read_by_the_rules_of_params_yaml(tmp_path):
    path = tmp_path / "mine.yaml"
    rounds = "rounds: [{terms: [{term: regression, at: noise, weight: 5e-1}]}]\n"
    path.write_text(rounds)
    assert load_recipe(path).rounds[0].terms[0].weight == 0.5      # YAML 1.1 takes 5e-1 for a text
    told = {rounds + rounds: "duplicate key", "rounds: [": "not a YAML file", "summary: 2020-01-31": "type date"}
    for text, said in told.items():
        path.write_text(text)
        with pytest.raises(SettingsError, match=said):
            load_recipe(path)
    with pytest.raises(SettingsError, match="does not exist"):
        load_recipe(tmp_path / "none.yaml")

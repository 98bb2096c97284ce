"""`fewstep recipes`, as its user calls it."""

import json
import subprocess
import sys
from pathlib import Path

from fewstep.recipes import recipe_names

ROOT = Path(__file__).parents[3]


def fewstep(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "flows.cli", *args], cwd=ROOT, capture_output=True, text=True)


def test_recipes_are_listed_with_what_each_needs():
    rows = json.loads(fewstep("recipes", "--json").stdout)
    assert [row["name"] for row in rows] == recipe_names()
    assert {row["name"]: row["needs"] for row in rows}["kd"] == ["teacher", "pairs"]
    found = {row["name"]: (row["target"], row["flow_map"]) for row in rows}
    assert found["kd"] == ("few-step", True) and found["dmd2"] == ("few-step", False)
    shown = fewstep("recipes").stdout
    assert all(name in shown for name in recipe_names())


def test_one_recipe_is_shown_fully_resolved(tmp_path):
    shown = json.loads(fewstep("recipes", "show", "dmd2", "--json").stdout)
    assert shown["rounds"][0]["turns"] == {"fake_score": 5, "student": 1}
    assert shown["optimiser"]["betas"] == [0.9, 0.99] and shown["needs"] == ["teacher", "real data"]
    assert shown["target"] == "few-step" and "lr" in shown["published"]
    published = json.loads(fewstep("recipes", "show", "dmd2", "--preset", "published", "--json").stdout)
    assert (published["optimiser"]["lr"], published["training"]["batch"]) == (2e-6, 280)
    assert shown["optimiser"]["lr"] != 2e-6 and published["published"] == shown["published"]
    assert "distribution_matching" in fewstep("recipes", "show", "dmd2").stdout
    (tmp_path / "mine.yaml").write_text("rounds: [{terms: [{term: regression, at: noise}]}]")
    assert json.loads(fewstep("recipes", "show", str(tmp_path / "mine.yaml"), "--json").stdout)["name"] == "mine"


def test_an_unknown_recipe_ends_with_one_line_and_code_2():
    done = fewstep("recipes", "show", "progresive")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: unknown recipe 'progresive'; did you mean 'progressive'?")

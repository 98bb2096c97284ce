"""`fewstep sweep`: what recipes share is made once, what is done is not done again, the checkout stays as it is."""

import json
import subprocess
import sys
from collections import Counter

import pytest

from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import from_yaml
from tasks.report import recipe_table


def begun(project) -> Counter:
    return Counter(stage for stage, *_ in project.journal())


@pytest.mark.slow
def test_a_sweep_shares_stages_remembers_rows_and_leaves_the_checkout_alone(project):
    params = (project.root / "params.yaml").read_bytes()
    project.control(distill={"fail": "no luck"})
    failed = project.json("sweep", "kd", "--images", "1000", code=1)
    assert failed[0]["recipe"] == "kd" and "exit code" in failed[0]["error"]
    assert "`kd` failed" in (project.root / "docs" / "digits.md").read_text()

    project.control()
    rows = project.json("sweep", "kd", "ect", "--images", "1000")
    assert [row["recipe"] for row in rows] == ["kd", "ect"] and rows[0]["fd_infinite"] == 1.0
    units = begun(project)
    assert units["teacher"] == 3 and units["shard"] == 3 and units["baselines"] == 3  # once, by the run that failed
    assert units["distill"] > 6 and units["evaluate"] == 6
    assert (project.root / "params.yaml").read_bytes() == params and not (project.root / "data" / "student").exists()
    assert "worktrees/" not in project.git("worktree", "list").split("\n", 1)[1]

    assert project.json("sweep", "kd", "ect", "--images", "1000") == rows and begun(project) == units
    command = [sys.executable, "-m", "dvc", "metrics", "show", "--json"]
    shown = json.loads(subprocess.check_output(command, cwd=project.root))[""]["data"]
    assert {"docs/digits/kd.json", "docs/digits/ect.json"} <= set(shown)
    assert shown["docs/digits/kd.json"]["data"]["kid"] == 0.01
    text = (project.root / "docs" / "digits.md").read_text()
    assert "| `ect` | few-step | 1 | 1.000 | 10.00 | 0.900 | 0.950 |" in text and "real images" in text


def figures(recipe: str, distance: float = 1.0) -> dict:
    quality = {"fd_infinite": distance, "kid": 0.01, "recall": 0.9, "class_accuracy": None}
    reference = {"real": quality, "solver": {"2": {"name": "unipc", **quality}}}
    return {"recipe": recipe, "evaluations": 2, **quality, "images_per_second": 51.7, "training_seconds": 9.0,
            "protocol": "a", "samples": 100, "reference": reference}


def test_rows_become_metrics_a_plot_and_a_table_with_what_failed(tmp_path):
    recipe_table.write(tmp_path, [figures("kd"), figures("reflow")], 1000)
    recipe_table.write(tmp_path, [figures("kd"), {"recipe": "ect", "error": "no luck"}, figures("dmd2", 0.5)], 1000)
    metrics = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "docs" / "digits").glob("*.json")}
    assert set(metrics) == {"dmd2", "kd"} and metrics["kd"]["images_per_second"] == 51.7
    lines = (tmp_path / "docs" / "digits" / "figures.csv").read_text().splitlines()
    assert lines[0].startswith("recipe,evaluations,fd_infinite") and len(lines) == 3
    plots = from_yaml((tmp_path / "docs" / "digits" / "dvc.yaml").read_bytes())
    assert plots["metrics"] == ["dmd2.json", "kd.json"] and plots["plots"][0]["figures.csv"]["y"] == "recipe"
    text = (tmp_path / "docs" / "digits.md").read_text()
    assert "1,000 training samples" in text and "`ect` failed: no luck" in text and "unipc (training-free)" in text
    assert text.index("`dmd2` | few-step | 2 | 0.500 | 10.00 | 0.900 | – | 52 | 9") < text.index("| `kd`")


def test_rows_of_different_protocols_do_not_stand_in_one_table(tmp_path):
    with pytest.raises(SettingsError, match="different protocols"):
        recipe_table.write(tmp_path, [figures("kd"), {**figures("ect"), "protocol": "b"}], 1000)
    assert not (tmp_path / "docs").exists()

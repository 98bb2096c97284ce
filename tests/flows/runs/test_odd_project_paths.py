"""A project whose path holds what other syntaxes give a meaning: its own Prefect server, MLflow, DVC and git work."""

import sqlite3

import pytest

from tests.flows.conftest import make_project

ALL = "a b,c?d#e%41&f=g'h;i"


NAMES = [ALL, *(pytest.param(name, marks=pytest.mark.slow)
                for name in ("what?", "a#b", "50%", "%41", "two words", "runs,2"))]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_run_ends_and_writes_nothing_beside_the_project(tmp_path, name):
    place = tmp_path / "place"
    place.mkdir()
    project = make_project(place / name)
    done = project.json("run")
    assert done["state"] == "finished" and {stage["state"] for stage in done["stages"].values()} == {"made"}
    assert [path.name for path in place.iterdir()] == [name]
    local = place / name / ".fewstep"
    with sqlite3.connect(local / "prefect" / "prefect.db") as database:
        assert database.execute("SELECT state_name FROM flow_run").fetchall() == [("Completed",)]
    with sqlite3.connect(local / "mlflow.db") as database:
        assert database.execute("SELECT DISTINCT status FROM runs").fetchall() == [("FINISHED",)]
    assert "nothing to do" in project.fewstep("run").stdout


@pytest.mark.slow
def test_an_isolated_run_finds_what_was_made_before(tmp_path):
    project = make_project(tmp_path / ALL)
    project.json("run")
    isolated = project.json("run", "--isolated", "--set", "evaluate.samples=64")
    assert isolated["state"] == "finished" and isolated["stages"]["teacher"]["state"] == "restored"

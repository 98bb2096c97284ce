"""The connection to MLflow: an absent server, what does not exist, writers at once, older databases."""

import logging
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fewstep.util.errors import FewstepError, NotAvailable
from tasks.tracking.mlflow_client import Missing, Tracking, all_pages, if_present
from tests.registry_world import with_database


def tracking(folder) -> Tracking:
    return Tracking(f"sqlite:///{folder}/mlflow.db", folder.as_uri(), folder / "locks")


@pytest.fixture
def own(tmp_path):
    with_database(tmp_path)
    return tracking(tmp_path)


def test_what_does_not_exist_is_told_from_what_is_refused(own):
    run = own.client.create_run(own.experiment("digits"))
    assert if_present(own.client.get_run, run.info.run_id).info.run_id == run.info.run_id
    for ask, names in ((own.client.get_run, ["0" * 32]), (own.client.get_registered_model, ["nobody"]),
                       (own.client.get_model_version, ["nobody", "1"])):  # fmt: skip
        with pytest.raises(Missing):
            ask(*names)
        assert if_present(ask, *names) is None
    with pytest.raises(FewstepError, match="MLflow refused create_registered_model") as refused:
        own.client.create_registered_model("")
    assert not isinstance(refused.value, (Missing, NotAvailable))


def test_a_parameter_is_written_once(own):
    run = own.client.create_run(own.experiment("digits")).info.run_id
    assert own.write_once(run, "move", "1") and own.write_once(run, "move", "1")
    assert not own.write_once(run, "move", "2")


def test_all_pages_of_a_search(own):
    experiment = own.experiment("digits")
    made = {own.client.create_run(experiment).info.run_id for _ in range(5)}
    assert {run.info.run_id for run in all_pages(own.client.search_runs, [experiment], max_results=2)} == made


def test_many_who_set_the_same_new_tag_at_once_all_succeed(own, tmp_path):
    own.client.create_registered_model("model")
    own.client.create_model_version("model", source=tmp_path.as_uri())
    others = [tracking(tmp_path) for _ in range(6)]
    for other in others:
        other.client.get_model_version("model", "1")
    start = threading.Barrier(len(others))

    def tag(number):
        for key in range(12):
            start.wait(60)
            others[number].client.set_model_version_tag("model", "1", f"key-{key}", str(number))

    with ThreadPoolExecutor(len(others)) as pool:
        list(pool.map(tag, range(len(others))))
    tags = own.client.get_model_version("model", "1").tags
    assert {tags[f"key-{key}"] for key in range(12)} <= {str(number) for number in range(len(others))}


def test_an_absent_server_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    server = Tracking("http://user:canary-password@127.0.0.1:9", None, tmp_path)
    said = r"MLflow at http://\*\*\*@127.0.0.1:9 did not answer after 2 attempts"
    with pytest.raises(NotAvailable, match=said) as info:
        server.experiment("digits")
    assert "canary" not in str(info.value) and "resume" in info.value.hint


def test_a_database_that_cannot_be_opened_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(NotAvailable, match="did not answer after 1 attempts: .*unable to open database file"):
        tracking(tmp_path).experiment("digits")


def test_an_older_database_is_copied_and_upgraded(own, tmp_path):
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    own.experiment("kept")
    level = logging.getLogger("alembic").level
    command.downgrade(_get_alembic_config(own.uri), "-1")
    logging.getLogger("alembic").setLevel(level)
    again = tracking(tmp_path)
    assert again.client.get_experiment_by_name("kept") is not None
    (copy,) = tmp_path.glob("mlflow.db.before-*")
    revisions = [sqlite3.connect(path).execute("select version_num from alembic_version").fetchone()[0]
                 for path in (copy, tmp_path / "mlflow.db")]  # fmt: skip
    assert revisions[0] != revisions[1] == copy.name.rpartition("-")[2]

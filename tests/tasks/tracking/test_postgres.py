"""MLflow on PostgreSQL, by its address and behind a server: races have a winner and no victim, errors their kind."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fewstep.util.errors import FewstepError, NotAvailable
from tasks.registry.aliases import AliasMoved, history, move
from tasks.registry.model_registry import Registry
from tasks.tracking.mlflow_client import Missing, Tracking, if_present
from tests.mlflow_server import mlflow_server
from tests.postgres import PASSWORD
from tests.registry_world import Place

MODEL, WRITERS = "fewstep-race", 4


@pytest.fixture(scope="module", params=["database", "server"])
def uri(request, postgres, tmp_path_factory):
    """Of an MLflow whose tables are in PostgreSQL."""
    database = postgres.new(f"mlflow_{request.param}")
    if request.param == "database":
        yield database
        return
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), database) as url:
        yield url


def tracking(uri, folder) -> Tracking:
    return Tracking(uri, folder.as_uri(), folder / "locks")


@pytest.fixture(scope="module")
def own(uri, tmp_path_factory):
    return tracking(uri, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def versions(own):
    """Two versions of MODEL, of one run."""
    run = own.client.create_run(own.experiment("race"))
    own.client.create_registered_model(MODEL)
    return [own.client.create_model_version(MODEL, run.info.artifact_uri, run.info.run_id) for _ in range(2)]


def at_once(count, action):
    """What `action(0)` … return or raise, called in threads at one moment."""
    start = threading.Barrier(count)

    def call(number):
        start.wait(60)
        try:
            return action(number)
        except FewstepError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def test_who_sets_one_new_alias_tag_or_parameter_at_once_meets_no_error(own, uri, versions, tmp_path):
    others = [tracking(uri, tmp_path) for _ in range(WRITERS)]
    for other in others:
        other.client.get_model_version(MODEL, "1")
    for turn in range(8):
        said = at_once(WRITERS, lambda number, turn=turn: others[number].client.set_registered_model_alias(
            MODEL, f"alias-{turn}", str(1 + number % 2)))  # fmt: skip
        said += at_once(WRITERS, lambda number, turn=turn: others[number].client.set_model_version_tag(
            MODEL, "1", f"tag-{turn}", str(number)))  # fmt: skip
        assert said == [None] * 2 * WRITERS
        run = versions[0].run_id
        won = at_once(WRITERS, lambda number, turn=turn, run=run: others[number].write_once(
            run, f"move-{turn}", str(number)))  # fmt: skip
        assert sorted(won) == [False] * (WRITERS - 1) + [True]
        assert own.client.get_run(run).data.params[f"move-{turn}"] == str(won.index(True))


class Host(Place):
    mlflow_uri = ""


def test_of_hosts_that_move_one_new_alias_at_once_one_wins_and_the_others_are_told(uri, versions, tmp_path):
    registries = []
    for number in range(WRITERS):
        place = Host(tmp_path / f"host-{number}")
        place.shared.mkdir(parents=True)
        place.mlflow_uri = uri
        registries.append(Registry(place))
    for turn in range(6):
        alias = f"live-{turn}"
        said = at_once(WRITERS, lambda number, alias=alias: move(
            registries[number], registries[number].get(MODEL, 1 + number % 2), None, alias=alias))  # fmt: skip
        assert [type(one) for one in said].count(AliasMoved) == WRITERS - 1, said
        (winner,) = (one for one in said if not isinstance(one, Exception))
        for registry in registries:
            assert registry.aliases(MODEL)[alias] == winner.to
            mine = [entry.to for entry in history(registry, MODEL)
                    if entry.alias == alias and entry.event == "promoted"]  # fmt: skip
            assert mine in ([], [winner.to])


def test_what_does_not_exist_is_told_from_what_is_refused_and_from_a_wrong_password(own, uri, tmp_path, monkeypatch):
    for ask, names in ((own.client.get_run, ["0" * 32]), (own.client.get_registered_model, ["nobody"]),
                       (own.client.get_model_version, ["nobody", "1"])):  # fmt: skip
        assert if_present(ask, *names) is None
    with pytest.raises(FewstepError, match="MLflow refused create_registered_model") as refused:
        own.client.create_registered_model("")
    assert not isinstance(refused.value, (Missing, NotAvailable))


def test_a_server_whose_artifact_store_is_away_answers_and_its_error_says_why(postgres, tmp_path, monkeypatch):
    """What MLflow's client tells of it ends in the cause; it is not that MLflow did not answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    page = tmp_path / "report.html"
    page.write_text("<html>")
    dead = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y",
            "AWS_MAX_ATTEMPTS": "1", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    with mlflow_server(tmp_path, postgres.new("artifacts_away"), "s3://bucket/x", **dead) as url:
        own = tracking(url, tmp_path)
        run = Tracking(url, None, tmp_path).client.create_run(Tracking(url, None, tmp_path).experiment("x"))
        with pytest.raises(NotAvailable, match="is up and failed log_artifact after 2 attempts: .*Caused by") as away:
            own.client.log_artifact(run.info.run_id, str(page), "report")
        assert "artifact store" in away.value.hint and len(str(away.value)) > 400


def test_a_database_that_is_away_is_not_available_and_its_password_is_not_said(postgres, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    database = postgres.new("away")
    with pytest.raises(NotAvailable) as wrong:
        tracking(database.replace("c%40nary", "c%40narx"), tmp_path / "wrong").experiment("x")
    own = tracking(database, tmp_path)
    own.experiment("kept")
    postgres.stop()
    try:
        with pytest.raises(NotAvailable, match="did not answer after 2 attempts") as away:
            own.experiment("other")
    finally:
        postgres.start()
    assert own.client.get_experiment_by_name("kept") is not None
    for text in (str(away.value), str(wrong.value)):
        assert PASSWORD not in text and "nar" not in text.replace("canary", "")

"""A record that a host kept before the project had a store for all, carried into it: real MLflow server, real store."""

import os
import signal

import pytest

from fewstep.util.errors import DataDiffers
from tasks.registry import aliases, webhooks
from tasks.registry.aliases import Decision, history, move, refuse
from tasks.registry.gate import pending_approvals
from tasks.registry.model_registry import Registry
from tasks.registry.record import FileRecord
from tasks.registry.shared_record import SharedRecord
from tests.children import Gate, OtherProcess, replace_in_all
from tests.mlflow_server import mlflow_server
from tests.registry_world import MODEL, with_database
from tests.tasks.registry.test_alias_claims import Elsewhere
from tests.tasks.registry.test_webhooks import Receiver, receiver  # noqa: F401


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """The address of a server."""
    folder = tmp_path_factory.mktemp("mlflow")
    with_database(folder / ".fewstep")
    with mlflow_server(folder, f"sqlite:///{folder}/.fewstep/mlflow.db") as url:
        yield url


@pytest.fixture
def hosts(tmp_path, mlflow, s3_prefix, monkeypatch):
    """Two checkouts on one MLflow server whose DVC remote is a folder: each keeps a record of its own."""
    replace_in_all(monkeypatch, Registry, "pipeline", lambda self, version: None)  # the bytes verify
    made = [Elsewhere(tmp_path / name) for name in ("one", "two")]
    for host in made:
        host.mlflow_uri = mlflow
        (host.root / ".dvc").mkdir(parents=True)
        remote_of(host, str(tmp_path / "remote"))
    start_anew(Registry(made[0]))
    return made


def start_anew(registry: Registry) -> None:
    """The model is deleted, and made again with three versions."""
    client = registry.tracking.client
    if MODEL in registry.models():
        client.delete_registered_model(MODEL)
    client.create_registered_model(MODEL)
    run = client.create_run(registry.tracking.experiment("toy"))
    for number in range(1, 4):
        client.create_model_version(MODEL, f"s3://toy/{number}", run.info.run_id,
                                    tags={"fewstep.weights": str(number) * 64})


def remote_of(host, url: str) -> None:
    (host.root / ".dvc/config").write_text(f"['remote \"s\"']\n    url = {url}\n[core]\n    remote = s\n")


def decision(number: int, former: int | None, **more) -> Decision:
    return Decision(MODEL, number, "champion", "gated", True, ("worse",), former, **more)


@pytest.fixture
def decided(hosts):
    """What host one decided by itself: a champion, a refusal, and a decision that waits."""
    one = Registry(hosts[0])
    move(one, one.get(MODEL, 1), None, who="ann")
    refuse(one, decision(3, 1, kind="floors"), who="ann")
    pending_approvals.store(one, decision(2, 1), 1.0, who="bob")
    return history(one, MODEL)


def told(place) -> list[tuple[str, str]]:
    return [(entry.event, entry.id) for entry in history(Registry(place), MODEL)]


def test_what_a_host_decided_alone_is_carried_over_once_and_goes_on_anywhere(hosts, decided, s3_prefix):
    one, two = hosts
    for host in hosts:
        remote_of(host, s3_prefix)
    assert told(two) == [], "host one was not asked yet"
    assert [entry.event for entry in decided] == ["intent", "promoted", "refused", "pending"]
    assert history(Registry(one), MODEL) == decided == history(Registry(two), MODEL) == history(Registry(one), MODEL)
    assert isinstance(Registry(one).record(MODEL), SharedRecord)
    assert pending_approvals.approve(Registry(two), decided[-1].id, who="eve").event == "promoted"
    assert told(one)[:4] == [(entry.event, entry.id) for entry in decided] and len(told(one)) == 6
    assert FileRecord(Registry(one).folder / MODEL).read() == decided, "the file stays"


def test_a_host_comes_behind_what_the_other_has_carried(hosts, decided, s3_prefix):
    one, two = hosts
    move(Registry(two), Registry(two).get(MODEL, 3), 1, who="dan")
    theirs = told(two)
    for host in hosts:
        remote_of(host, s3_prefix)
    ours = [(entry.event, entry.id) for entry in decided]
    assert told(one) == ours and told(two) == told(one) == ours + theirs
    assert aliases.rollback(Registry(one), MODEL) == (3, 1)


@pytest.mark.parametrize("writes", [1, 3])
def test_who_dies_at_it_writes_nothing_twice(hosts, decided, s3_prefix, monkeypatch, writes):
    one = hosts[0]
    remote_of(one, s3_prefix)

    def dying():
        real, done = SharedRecord.write_behind, []

        def write_behind(record, entries, entry):
            written = real(record, entries, entry)
            done.append(entry)
            if len(done) == writes:
                os.kill(os.getpid(), signal.SIGKILL)
            return written

        SharedRecord.write_behind = write_behind
        history(Registry(one), MODEL)

    assert OtherProcess(dying).wait() == (-signal.SIGKILL, "")
    assert told(one) == [(entry.event, entry.id) for entry in decided]


def test_hosts_that_carry_at_once_lose_nothing(hosts, decided, s3_prefix, tmp_path):
    one, two = hosts
    move(Registry(two), Registry(two).get(MODEL, 3), 1, who="dan")
    theirs, gate = told(two), Gate(tmp_path)
    for host in hosts:
        remote_of(host, s3_prefix)

    def opens(host):
        gate.wait()
        history(Registry(host), MODEL)

    children = [OtherProcess(lambda host=host: opens(host)) for host in hosts for _ in range(2)]
    gate.open()
    assert [child.wait() for child in children] == [(0, "")] * 4
    ours = [(entry.event, entry.id) for entry in decided]
    found = told(one)
    assert sorted(found) == sorted(ours + theirs)
    for former in (ours, theirs):
        assert [entry for entry in found if entry in former] == former


def test_a_decision_that_ended_in_two_ways_is_refused_by_name(hosts, decided, s3_prefix):
    one, two = hosts
    there = FileRecord(Registry(two).folder / MODEL)
    for entry in decided:       # its .fewstep was copied from host one
        there.append(entry)
    pending_approvals.reject(Registry(one), decided[-1].id, who="ann")
    pending_approvals.approve(Registry(two), decided[-1].id, who="eve")
    for host in hosts:
        remote_of(host, s3_prefix)
    assert told(one)[-1][0] == "rejected"
    before = told(one)
    with pytest.raises(DataDiffers, match=r"version 2 → champion \(.*\): promoted by eve at .*two.*record.jsonl, "
                                          "rejected by ann at .* in the shared store") as refused:
        history(Registry(two), MODEL)
    assert "move that file away" in refused.value.hint and told(one) == before
    there.path.rename(there.path.with_suffix(".away"))
    assert told(two) == before


def test_decisions_about_another_registry_stay_where_they_are(hosts, decided, s3_prefix):
    one = hosts[0]
    start_anew(Registry(one))
    remote_of(one, s3_prefix)
    assert told(one) == []
    remote_of(one, "/nowhere")
    move(Registry(one), Registry(one).get(MODEL, 2), None, who="dan")       # into the same file
    remote_of(one, s3_prefix)
    assert [entry.who for entry in history(Registry(one), MODEL)] == ["dan", "dan"]


def test_a_webhook_is_not_told_again(hosts, receiver: Receiver, s3_prefix, monkeypatch):  # noqa: F811
    one = Registry(hosts[0])
    monkeypatch.setenv(webhooks.ADDRESS, receiver.address)
    move(one, one.get(MODEL, 1), None, who="ann")
    assert webhooks.deliver(one, MODEL) == 1
    remote_of(hosts[0], s3_prefix)
    assert webhooks.deliver(Registry(hosts[0]), MODEL) == 0
    refuse(Registry(hosts[0]), decision(3, 1, kind="floors"))
    assert webhooks.deliver(Registry(hosts[0]), MODEL) == 1
    assert [event["event"] for event, _ in receiver.events] == ["promoted", "refused"]

"""Two hosts with one record in a real object store: decisions made anywhere, once, and known everywhere."""

import os
import signal

import pytest

from fewstep.util.errors import DataDiffers, FewstepError
from tasks.registry import aliases, webhooks
from tasks.registry.alias_claims import Moves
from tasks.registry.aliases import AliasMoved, Decision, history, move
from tasks.registry.gate import pending_approvals
from tasks.registry.model_registry import Registry
from tasks.registry.shared_record import SharedRecord
from tests.children import Gate, OtherProcess, replace_in_all
from tests.registry_world import MODEL, with_three_versions
from tests.s3_server import BUCKET
from tests.tasks.registry.test_alias_claims import Elsewhere
from tests.tasks.registry.test_webhooks import Receiver, receiver  # noqa: F401


@pytest.fixture
def places(tmp_path, s3_prefix, monkeypatch):
    """Checkouts of two hosts with one MLflow store and one object store; version 1 is champion."""
    replace_in_all(monkeypatch, Registry, "pipeline", lambda self, version: None)  # the bytes verify
    replace_in_all(monkeypatch, Registry, "_is_shared", True)  # both hosts are this machine: a file serves them
    (tmp_path / "one").mkdir()
    one, two = with_three_versions(tmp_path / "one").workspace, Elsewhere(tmp_path / "two")
    two.mlflow_uri = one.mlflow_uri
    for place in (one, two):
        (place.root / ".dvc").mkdir(parents=True)
        remote = f"['remote \"s\"']\n    url = {s3_prefix}\n[core]\n    remote = s\n"
        (place.root / ".dvc" / "config").write_text(remote)
    assert OtherProcess(lambda: move(Registry(one), Registry(one).get(MODEL, 1), None, who="ann")).wait() == (0, "")
    return one, two


def propose(place, number=2) -> str:
    decision = Decision(MODEL, number, "champion", "gated", True, (), 1, {"kid": 0.1})
    return pending_approvals.store(Registry(place), decision, 1.0, why="sharper", who="bob").pending


def test_what_waits_on_one_host_is_decided_on_another_and_all_read_one_history(places):
    one, two = map(Registry, places)
    identity = propose(places[0])
    assert propose(places[1]) == identity, "asked for once"
    (waits,) = pending_approvals.waiting(two, MODEL)
    assert (waits.id, waits.who, waits.figures) == (identity, "bob", {"kid": 0.1})
    assert pending_approvals.approve(two, identity[:8], who="eve").event == "promoted"
    with pytest.raises(FewstepError, match="is closed: promoted by eve"):
        pending_approvals.reject(one, identity)
    assert aliases.rollback(one, MODEL) == (2, 1) and one.aliases(MODEL) == {"champion": 1, "previous": 2}
    assert [entry.event for entry in history(one, MODEL)] == [
        "intent", "promoted", "pending", "intent", "promoted", "intent", "rolled back"]  # fmt: skip
    assert history(one, MODEL) == history(two, MODEL) and not list(places[0].root.rglob("record.jsonl"))


def test_of_four_decisions_on_two_hosts_at_once_one_counts_and_the_others_are_told_whose(places, tmp_path):
    identity, gate = propose(places[0]), Gate(tmp_path)

    def deciding(place, decide, who):
        registry = Registry(place)
        gate.wait()
        try:
            decide(registry, identity, who=who)
        except FewstepError as error:
            print(str(error), flush=True)

    who = {"eve": (places[0], pending_approvals.approve), "ann": (places[1], pending_approvals.approve),
           "bob": (places[0], pending_approvals.reject), "dan": (places[1], pending_approvals.reject)}  # fmt: skip
    children = {name: OtherProcess(lambda name=name, work=work: deciding(*work, name)) for name, work in who.items()}
    gate.open()
    said = {name: child.wait() for name, child in children.items()}
    winner = next(name for name, (_, text) in said.items() if not text)
    registry = Registry(places[0])
    ends = [(entry.event, entry.who) for entry in history(registry, MODEL) if entry.closes == identity]
    event = "promoted" if who[winner][1] is pending_approvals.approve else "rejected"
    assert ends == ([("intent", winner), ("promoted", winner)] if event == "promoted" else [("rejected", winner)])
    assert registry.aliases(MODEL)["champion"] == (2 if event == "promoted" else 1)
    for name, (code, text) in said.items():
        assert code == 0 and (name == winner or f"is closed: {event} by {winner}" in text), (name, text)


@pytest.mark.parametrize("before", [(Moves, "claim"), (aliases, "_point"), (aliases, "tag")])
def test_what_a_host_that_died_had_decided_another_carries_out(places, before):
    identity = propose(places[0])

    def dying():
        registry = Registry(places[0])
        setattr(*before, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        pending_approvals.approve(registry, identity, who="eve")

    def elsewhere():
        registry = Registry(places[1])
        with pytest.raises(FewstepError, match="is closed: promoted by eve"):
            pending_approvals.reject(registry, identity)
        assert registry.aliases(MODEL) == {"champion": 2, "previous": 1}
        assert [entry.event for entry in history(registry, MODEL)][-3:] == ["pending", "intent", "promoted"]
        assert aliases.complete(registry, MODEL) is None

    assert OtherProcess(dying).wait() == (-signal.SIGKILL, "")
    assert OtherProcess(elsewhere).wait() == (0, "")


def test_an_intent_that_another_host_helped_to_its_end_ends_once(places, monkeypatch):
    one, two = map(Registry, places)
    real, helped = Moves.claim, []

    def late(moves, entry):
        if not helped:
            helped.append("the other host")
            assert aliases.complete(two, MODEL).to == 3
        return real(moves, entry)

    monkeypatch.setattr(Moves, "claim", late)
    move(one, one.get(MODEL, 3), 1)
    assert helped and [entry.event for entry in history(one, MODEL)] == ["intent", "promoted"] * 2
    with pytest.raises(AliasMoved):
        move(two, two.get(MODEL, 2), 1)


def test_a_webhook_hears_every_event_once_whichever_host_delivers(places, receiver: Receiver, monkeypatch):  # noqa: F811
    one, two = map(Registry, places)
    monkeypatch.setenv(webhooks.ADDRESS, receiver.address)
    assert webhooks.deliver(one, MODEL) == 1
    monkeypatch.delenv(webhooks.ADDRESS)
    identity = propose(places[0])
    assert webhooks.deliver(one, MODEL) == 0, "this host knows no address, another may"
    monkeypatch.setenv(webhooks.ADDRESS, receiver.address)
    assert webhooks.deliver(two, MODEL) == 1
    pending_approvals.reject(two, identity)
    assert webhooks.deliver(one, MODEL) == 1 and webhooks.deliver(two, MODEL) == 0
    assert [event["event"] for event, _ in receiver.events] == ["promoted", "pending", "rejected"]


def test_registries_have_records_of_their_own_and_a_lost_entry_is_named(places, s3_server, tmp_path):
    one = Registry(places[0])
    assert isinstance(one.record(MODEL), SharedRecord)
    (tmp_path / "other").mkdir()
    other = Elsewhere(places[0].root)
    other.mlflow_uri = "sqlite:///" + str(with_three_versions(tmp_path / "other").workspace.shared / "mlflow.db")
    Registry(other).tracking.client.delete_registered_model(MODEL)
    Registry(other).tracking.client.create_registered_model(MODEL)
    assert Registry(other).record(MODEL).read() == [] and len(history(one, MODEL)) == 2
    (first, _) = (name for name in s3_server.names() if f"/records/{MODEL}-" in name and one_of(places, name))
    s3_server.client.delete_object(Bucket=BUCKET, Key=first)
    with pytest.raises(DataDiffers, match="lost an entry: .*00000001.json is missing"):
        history(Registry(places[1]), MODEL)


def one_of(places, name: str) -> bool:
    """Whether the object lies in the store of these places."""
    return name.startswith((places[0].root / ".dvc/config").read_text().split("url = ")[1].split()[0].split("/", 3)[3])

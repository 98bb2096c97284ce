"""Two hosts, each with a lock and a record of its own, move the aliases of one MLflow store."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable
from tasks.registry import aliases
from tasks.registry.alias_claims import Moves, Taken
from tasks.registry.aliases import AliasMoved, Decision, complete, history, move
from tasks.registry.audit_log import Entry
from tasks.registry.gate import pending_approvals, promotion_gate
from tasks.registry.model_registry import Registry
from tests.children import OtherProcess, replace_in_all
from tests.registry_world import MODEL, Place, with_three_versions


class Elsewhere(Place):
    """Another host's checkout, on the first one's store."""

    mlflow_uri = ""


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """Registries of two hosts, champion 1."""
    replace_in_all(monkeypatch, Registry, "pipeline", lambda self, version: None)  # the bytes verify
    (tmp_path / "one").mkdir()
    one, other = with_three_versions(tmp_path / "one"), Elsewhere(tmp_path / "two")
    other.mlflow_uri = one.workspace.mlflow_uri
    move(one, one.get(MODEL, 1), None)
    return one, Registry(other)


def first(registry, number):
    return registry.get(MODEL, number)


def interposed(monkeypatch, target, name, action):
    """Before the first call of `target.name`, `action` happens."""
    real, done = getattr(target, name), []

    def late(*args, **kwargs):
        if not done:
            done.append(1)
            action()
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, late)


def test_each_host_sees_the_moves_of_the_other_and_keeps_a_record_of_its_own(hosts):
    one, two = hosts
    move(two, first(two, 2), 1, who="ann", why="sharper")
    with pytest.raises(AliasMoved, match="moved from version 1 to version 2"):
        move(one, first(one, 3), 1)
    assert aliases.rollback(one, MODEL) == (2, 1)
    assert [entry.to for entry in history(one, MODEL) if entry.event != "intent"] == [1, 1]
    assert [(entry.event, entry.to) for entry in history(two, MODEL)] == [("intent", 2), ("promoted", 2)]
    moves = Moves(one, MODEL)
    assert [move.entry.to for move in moves.of["champion"]] == [1, 2, 1]
    assert moves.newest("champion").done and moves.of["champion"][1].entry.who == "ann"


@pytest.mark.parametrize("before", [(Moves, "claim"), (aliases, "_point")])
def test_who_is_overtaken_between_looking_and_moving_decides_again(hosts, monkeypatch, before):
    """Before the claim: the other host has the move. After it: the move is ours, and the other carries it out first."""
    one, two = hosts
    monkeypatch.setattr(promotion_gate, "assess", lambda registry, version, *_, **__: Decision(
        MODEL, version.number, "champion", "gated", True, (), registry.aliases(MODEL)["champion"]))  # fmt: skip
    interposed(monkeypatch, *before, lambda: promotion_gate.promote(two, first(two, 3), None))
    decision = promotion_gate.promote(one, first(one, 2), None)
    assert decision.promoted
    expected = {"champion": 2, "previous": 3} if before[0] is Moves else {"champion": 3, "previous": 2}
    assert one.aliases(MODEL) == expected
    events = [entry.event for entry in history(one, MODEL)][2:]
    assert events == (["intent", "abandoned", "intent", "promoted"] if before[0] is Moves else ["intent", "promoted"])


def test_an_approval_that_another_host_overtakes_is_closed_as_overtaken(hosts, monkeypatch):
    one, two = hosts
    waits = pending_approvals.store(one, Decision(MODEL, 2, "champion", "gated", True, (), 1), 1.0).pending
    interposed(monkeypatch, Moves, "claim", lambda: move(two, first(two, 3), 1))
    with pytest.raises(AliasMoved, match="made against the former champion"):
        pending_approvals.approve(one, waits)
    assert one.aliases(MODEL) == {"champion": 3, "previous": 1} and pending_approvals.waiting(one, MODEL) == []
    assert [entry.event for entry in history(one, MODEL)][-3:] == ["intent", "abandoned", "overtaken"]
    with pytest.raises(FewstepError, match="is closed: overtaken"):
        pending_approvals.approve(one, waits)


def test_who_slept_before_setting_the_alias_does_not_undo_what_came_after(hosts, monkeypatch):
    one, two = hosts
    real, calls = one.set_alias, []

    def sleepy(version, alias):
        calls.append(alias)
        if calls == ["previous", "champion"]:  # claimed; two others come and go before the alias is set
            move(two, first(two, 3), 2)
            move(two, first(two, 1), 3)
        real(version, alias)

    monkeypatch.setattr(one, "set_alias", sleepy)
    move(one, first(one, 2), 1)
    assert one.aliases(MODEL) == {"champion": 1, "previous": 3}
    assert complete(one, MODEL) is None and complete(two, MODEL) is None


def dying(place, number, method):
    mine = Registry(place)
    setattr(mine, method, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    move(mine, mine.get(MODEL, number), 1, who="ann", why="sharper")


@pytest.mark.parametrize("method", ["set_alias", "set_tags"])
def test_what_a_dead_host_began_another_completes(hosts, method):
    one, two = (host.workspace for host in hosts)
    assert OtherProcess(lambda: dying(one, 2, method)).wait() == (-signal.SIGKILL, "")

    def elsewhere():
        mine = Registry(two)
        found = complete(mine, MODEL)
        assert (found is not None) == (method == "set_alias") and complete(mine, MODEL) is None
        assert mine.aliases(MODEL) == {"champion": 2, "previous": 1}
        move(mine, mine.get(MODEL, 3), 2)

    def back_again():
        mine = Registry(one)
        assert complete(mine, MODEL).to == 2 and complete(mine, MODEL) is None
        assert mine.aliases(MODEL) == {"champion": 3, "previous": 2}, "what came after stands"
        assert history(mine, MODEL)[-1].event == "promoted"

    assert OtherProcess(elsewhere).wait() == (0, "")
    assert OtherProcess(back_again).wait() == (0, "")


def test_an_intent_that_was_never_claimed_yields_to_another_host(hosts, monkeypatch):
    one, two = hosts

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Moves, "claim", killed)
        move(one, first(one, 2), 1)
    move(two, first(two, 3), 1)
    complete(one, MODEL)
    assert one.aliases(MODEL) == {"champion": 3, "previous": 1}
    assert history(one, MODEL)[-1].event == "abandoned" and complete(one, MODEL) is None


def test_a_move_is_written_once(hosts):
    one, two = hosts
    mine, theirs = Moves(one, MODEL), Moves(two, MODEL)
    entries = [Entry(event="intent", id=name, alias="champion", former=1, to=2, who="", when="2026-01-01T00:00:00Z",
                     why=2000 * "w", becomes="promoted") for name in "ab"]  # fmt: skip
    assert mine.claim(entries[0]).number == 2 and mine.claim(entries[0]).number == 2  # an answer that was lost
    with pytest.raises(Taken):
        theirs.claim(entries[1])


def test_a_move_that_an_older_version_claimed_is_read_and_a_damaged_one_is_named(hosts):
    one, _ = hosts
    run, write = one.get(MODEL, 1).run_id, one.tracking.write_once
    older = {"id": "a", "alias": "live", "from": None, "to": 2, "as": "promoted", "who": "ann",
             "when": "2026-01-01T00:00:00+00:00", "why": ""}  # fmt: skip
    assert write(run, "fewstep.live.0001", json.dumps(older))
    assert not Moves(one, MODEL).newest("live").done and complete(one, MODEL).to == 2
    assert one.aliases(MODEL) == {"champion": 1, "live": 2} and Moves(one, MODEL).newest("live").done
    write(run, "fewstep.live.0002", json.dumps(older | {"to": "3"}))
    with pytest.raises(DataDiffers, match=r"toy: parameter fewstep.live.0002: to: expected an integer, got '3'"):
        Moves(one, MODEL)


def test_a_model_whose_runs_are_gone_says_so(hosts):
    one, _ = hosts
    one.tracking.client.delete_run(first(one, 1).run_id)
    with pytest.raises(NotAvailable, match="the runs that registered its versions are gone"):
        move(one, first(one, 2), 1)
    assert one.aliases(MODEL) == {"champion": 1}


def test_promotions_in_threads_of_one_process(hosts, monkeypatch):
    """Of one registry and of several: each is promoted against the champion that it decided against."""
    one, two = hosts
    start = threading.Barrier(6)

    def assess(registry, version, *_, **__):
        former = registry.aliases(MODEL).get("champion")
        return Decision(MODEL, version.number, "champion", "gated", True, (), former)

    def promote(work):
        registry, number = work
        start.wait()
        return promotion_gate.promote(registry, registry.get(MODEL, number), None)

    monkeypatch.setattr(promotion_gate, "assess", assess)
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(promote, [(registry, number) for registry in (one, one, two) for number in (2, 3)]))
    moves = Moves(one, MODEL)
    chain = [move.entry for move in moves.of["champion"]]
    assert [entry.former for entry in chain] == [None, *(entry.to for entry in chain[:-1])]
    assert sorted((entry.former, entry.to) for entry in chain[1:]) == sorted((d.former, d.version) for d in done)
    assert one.aliases(MODEL) == {"champion": chain[-1].to, "previous": chain[-1].former}

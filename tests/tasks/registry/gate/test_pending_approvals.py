"""Decisions that wait for a person: stored, found, carried out once, or closed for a reason."""

import json
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest

from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable, SettingsError
from tasks.registry import aliases, audit_log
from tasks.registry.alias_claims import Moves
from tasks.registry.aliases import AliasMoved, Decision, history, move
from tasks.registry.gate import pending_approvals, promotion_gate
from tasks.registry.model_registry import Registry
from tasks.registry.record import FileRecord
from tests.children import Gate, OtherProcess, replace_in_all
from tests.registry_world import MODEL, with_three_versions


@pytest.fixture
def registry(tmp_path, monkeypatch):
    replace_in_all(monkeypatch, Registry, "pipeline", lambda self, version: None)  # the bytes verify
    found = with_three_versions(tmp_path)
    move(found, found.get(MODEL, 1), None, who="ann")
    return found


def decided(number=2, former=1, **figures) -> Decision:
    return Decision(MODEL, number, "champion", "gated", True, (), former, figures)


def propose(registry, number=2, **more) -> str:
    return pending_approvals.store(registry, decided(number, **more), 72.0, why="sharper", who="bob").pending


def test_what_would_be_promoted_waits_and_an_approval_carries_it_out(registry, monkeypatch):
    monkeypatch.setattr(promotion_gate, "assess", lambda *_, **__: decided(kid=0.1))
    decision = promotion_gate.propose(registry, registry.get(MODEL, 2), _Rules, why="sharper", who="bob")
    assert decision.pending and not decision.promoted and registry.aliases(MODEL) == {"champion": 1}
    assert json.loads(registry.get(MODEL, 2).tags["fewstep.decision"])["event"] == "pending"
    (entry,) = pending_approvals.waiting(registry, MODEL)
    assert entry.figures == {"kid": 0.1} and (entry.who, entry.why) == ("bob", "sharper")
    again = promotion_gate.propose(registry, registry.get(MODEL, 2), _Rules)
    assert again.pending == decision.pending, "asked for once"
    done = pending_approvals.approve(registry, decision.pending[:8], who="eve")
    assert (done.event, done.who, done.former, done.to) == ("promoted", "eve", 1, 2)
    assert done.figures == {"kid": 0.1} and registry.aliases(MODEL) == {"champion": 2, "previous": 1}
    assert pending_approvals.waiting(registry, MODEL) == []
    with pytest.raises(FewstepError, match="is closed: promoted by eve"):
        pending_approvals.approve(registry, decision.pending)


class _Rules:
    class gate:
        approval_hours = 72.0


def test_a_rejection_moves_nothing_and_is_final(registry):
    identity = propose(registry)
    pending_approvals.reject(registry, identity, why="sevens look odd", who="eve")
    entry = history(registry, MODEL)[-1]
    assert (entry.event, entry.why, entry.closes) == ("rejected", "sevens look odd", identity)
    assert registry.aliases(MODEL) == {"champion": 1}
    assert json.loads(registry.get(MODEL, 2).tags["fewstep.decision"])["event"] == "rejected"
    with pytest.raises(FewstepError, match="is closed: rejected by eve"):
        pending_approvals.approve(registry, identity)


def test_an_approval_of_what_was_decided_against_another_champion_is_refused(registry):
    identity = propose(registry)
    move(registry, registry.get(MODEL, 3), 1)
    with pytest.raises(AliasMoved, match="made against the former champion"):
        pending_approvals.approve(registry, identity)
    assert registry.aliases(MODEL)["champion"] == 3 and history(registry, MODEL)[-1].event == "overtaken"
    assert pending_approvals.waiting(registry, MODEL) == []


def test_an_approval_comes_too_late(registry, monkeypatch):
    identity = propose(registry)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=73)

    monkeypatch.setattr(audit_log, "datetime", Later)
    assert pending_approvals.waiting(registry, MODEL) == []
    with pytest.raises(FewstepError, match="expired at"):
        pending_approvals.approve(registry, identity)
    assert history(registry, MODEL)[-1].event == "expired" and registry.aliases(MODEL) == {"champion": 1}
    monkeypatch.undo()
    assert datetime.now(UTC) < datetime.fromisoformat(pending_approvals.find(registry, identity)[1].expires)


def test_an_approval_looks_at_the_bytes_again(registry, monkeypatch):
    identity = propose(registry)

    def differs(self, version):
        raise DataDiffers(f"{version.name}: the registered weights differ")

    monkeypatch.setattr(Registry, "pipeline", differs)
    with pytest.raises(DataDiffers):
        pending_approvals.approve(registry, identity)
    assert registry.aliases(MODEL) == {"champion": 1} and len(pending_approvals.waiting(registry, MODEL)) == 1


def test_ids_that_name_nothing(registry):
    with pytest.raises(NotAvailable, match="no decision 'abcdef' waits here"):
        pending_approvals.find(registry, "abcdef")
    for bad in ("xyz!", "abc", ""):
        with pytest.raises(SettingsError, match="no decision's id"):
            pending_approvals.find(registry, bad)


def approving(place, identity, before=None):
    mine = Registry(place)
    if before is not None:
        real = getattr(*before)
        setattr(*before, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL) if before else real())
    try:
        pending_approvals.approve(mine, identity)
    except FewstepError as error:
        print("too late" if "closed" in str(error) or "moved" in str(error) else error, flush=True)


def test_of_an_approval_and_a_rejection_at_once_one_counts(registry, tmp_path):
    identity = propose(registry)
    place, gate = registry.workspace, Gate(tmp_path)

    def rejecting():
        gate.wait()
        try:
            pending_approvals.reject(Registry(place), identity)
        except FewstepError:
            print("too late", flush=True)

    def approve():
        gate.wait()
        approving(place, identity)

    children = [OtherProcess(approve), OtherProcess(approve), OtherProcess(rejecting)]
    gate.open()
    assert sorted(child.wait() for child in children) == [(0, ""), (0, "too late\n"), (0, "too late\n")]
    ends = [entry.event for entry in history(registry, MODEL) if entry.closes == identity]
    assert ends in (["intent", "promoted"], ["rejected"])
    assert registry.aliases(MODEL)["champion"] == (2 if "promoted" in ends else 1)


@pytest.mark.parametrize("before", [(FileRecord, "append"), (Moves, "claim"), (aliases, "_point"), (aliases, "tag")])
def test_a_kill_in_an_approval_leaves_it_waiting_or_done_after_the_next_command(registry, before):
    identity = propose(registry)
    place = registry.workspace
    assert OtherProcess(lambda: approving(place, identity, before)).wait() == (-signal.SIGKILL, "")
    assert registry.aliases(MODEL)["champion"] in (1, 2)
    try:
        pending_approvals.approve(registry, identity)
    except FewstepError as error:
        assert "is closed: promoted" in str(error)
    assert registry.aliases(MODEL) == {"champion": 2, "previous": 1}
    assert [entry.event for entry in history(registry, MODEL)].count("promoted") == 2  # 1, and this once

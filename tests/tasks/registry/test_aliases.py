"""Who is champion: the rules, compare-and-set against others, kills in the middle, the record, rollback."""

import os
import signal

import pytest

from fewstep.util.errors import NotAvailable
from tasks.config.schema import Floors, Register
from tasks.registry import aliases, audit_log
from tasks.registry.aliases import AliasMoved, complete, history, move, rollback
from tasks.registry.audit_log import Entry
from tasks.registry.gate import champion_test, promotion_checks, promotion_gate
from tasks.registry.gate.promotion_checks import check_floors
from tasks.registry.model_registry import Registry
from tests.children import Gate, OtherProcess, replace_in_all
from tests.registry_world import GOOD, MODEL, with_three_versions


@pytest.fixture
def registry(tmp_path, monkeypatch):
    replace_in_all(monkeypatch, Registry, "pipeline", lambda self, version: None)  # the bytes verify
    return with_three_versions(tmp_path)


RULES = Register(floors=Floors(max_distance_ratio=0.5, min_recall=0.3, min_class_accuracy=None, max_copies=None))


CHECKS = ("incomplete", "altered", "same_model", "other_protocol", "without_lineage", "unknown_to_dvc", "unsound")


def passing(monkeypatch, outcome=None, **found):
    """Every check of a version's own passes, `found` apart; a contest ends in `outcome`."""
    for name in CHECKS:
        reasons = found.get(name, [])
        monkeypatch.setattr(promotion_checks, name, lambda *_, reasons=reasons: reasons)
    monkeypatch.setattr(champion_test, "hold", lambda *_: outcome or champion_test.Outcome([], "", {}, {"n": 10}))


def test_floors_name_what_misses_them():
    floors = RULES.floors.model_dump()
    assert check_floors(GOOD, floors) == ([], GOOD)
    reasons, _ = check_floors({"distance_ratio": 0.7}, floors)
    assert reasons == ["distance_ratio is 0.7, above register.floors.max_distance_ratio = 0.5",
                       "recall was not measured, and register.floors.min_recall asks for it"]  # fmt: skip
    assert len(check_floors({"distance_ratio": float("nan"), "recall": 0.5}, floors)[0]) == 1


def test_the_policies(registry, monkeypatch):
    passing(monkeypatch)

    def judge(number, policy, rules=RULES):
        return promotion_gate.assess(registry, registry.get(MODEL, number), rules, policy=policy)

    assert judge(1, "never").reasons == ("register.promote is never",)
    assert judge(1, "first").promoted and judge(1, "gated").promoted
    strict = Register(floors=Floors(max_distance_ratio=0.1))
    assert "above register.floors" in judge(1, "first", strict).reasons[0]
    assert judge(1, "gated", strict).kind == "floors"
    move(registry, registry.get(MODEL, 1), None)
    assert "there is a champion" in judge(2, "first").reasons[0] and judge(2, "gated").promoted
    assert "is the champion already" in judge(1, "gated").reasons[0]
    assert [entry.event for entry in history(registry, MODEL)] == ["intent", "promoted"], "deciding writes nothing"


@pytest.mark.parametrize("check", CHECKS)
def test_each_check_refuses_before_anything_is_sampled(registry, monkeypatch, check):
    move(registry, registry.get(MODEL, 1), None)
    passing(monkeypatch, **{check: ["for this reason"]})
    monkeypatch.setattr(champion_test, "hold", None)
    decision = promotion_gate.promote(registry, registry.get(MODEL, 2), RULES, policy="gated", who="ann")
    assert not decision.promoted and decision.reasons == ("for this reason",) and decision.kind
    entry = history(registry, MODEL)[-1]
    assert (entry.event, entry.why, entry.who, entry.kind) == ("refused", "for this reason", "ann", decision.kind)
    assert Entry.model_validate_json(registry.get(MODEL, 2).tags["fewstep.decision"]) == entry


@pytest.mark.parametrize("kind", ["inferior", "power", "equal"])
def test_what_the_contest_finds_is_recorded_with_its_figures(registry, monkeypatch, kind):
    move(registry, registry.get(MODEL, 1), None)
    passing(monkeypatch, champion_test.Outcome(["because"], kind, {"recall": 0.4}, {"n": 10}))
    decision = promotion_gate.promote(registry, registry.get(MODEL, 2), RULES, policy="gated")
    assert (decision.kind, decision.reasons) == (kind, ("because",))
    assert history(registry, MODEL)[-1].figures == {"floors": {"distance_ratio": 0.2, "recall": 0.4},
                                                       "contest": {"n": 10}}  # fmt: skip


def test_floors_are_asked_again_of_what_was_measured_afresh(registry, monkeypatch):
    move(registry, registry.get(MODEL, 1), None)
    passing(monkeypatch, champion_test.Outcome([], "", {"recall": 0.2}, {}))
    decision = promotion_gate.assess(registry, registry.get(MODEL, 2), RULES, policy="gated")
    assert decision.kind == "floors" and "recall is 0.2, below" in decision.reasons[0]


def test_a_move_is_recorded_and_keeps_the_former_champion(registry):
    move(registry, registry.get(MODEL, 1), None, why="first", who="ann")
    move(registry, registry.get(MODEL, 2), 1, why="better", who="bob", figures={"recall": 0.6})
    assert registry.aliases(MODEL) == {"champion": 2, "previous": 1}
    intents, done = history(registry, MODEL)[::2], history(registry, MODEL)[1::2]
    assert [(entry.event, entry.who, entry.former, entry.to) for entry in done] == [
        ("promoted", "ann", None, 1), ("promoted", "bob", 1, 2)]  # fmt: skip
    assert [entry.event for entry in intents] == ["intent", "intent"]
    assert '"recall": 0.6' in registry.get(MODEL, 2).tags["fewstep.decision"]
    assert rollback(registry, MODEL, why="worse on eights") == (2, 1)
    assert registry.aliases(MODEL) == {"champion": 1, "previous": 2}
    assert history(registry, MODEL)[-1].event == "rolled back"


def test_nothing_to_roll_back_to(registry):
    with pytest.raises(NotAvailable, match="no previous champion"):
        rollback(registry, MODEL)


def test_nobody_is_rolled_back_to_whose_bytes_are_gone(registry, monkeypatch):
    move(registry, registry.get(MODEL, 1), None)
    move(registry, registry.get(MODEL, 2), 1)
    monkeypatch.undo()
    with pytest.raises(NotAvailable, match="its files are gone"):
        rollback(registry, MODEL)
    assert registry.aliases(MODEL) == {"champion": 2, "previous": 1}


def test_a_move_against_another_champion_than_expected_is_refused(registry):
    move(registry, registry.get(MODEL, 1), None)
    with pytest.raises(AliasMoved, match="moved from nothing to version 1"):
        move(registry, registry.get(MODEL, 2), None)
    assert registry.aliases(MODEL) == {"champion": 1}


def test_the_loser_of_a_race_decides_again(registry, monkeypatch):
    real, seen = aliases.move, []

    def late(*args, **kwargs):
        if not seen:
            real(registry, registry.get(MODEL, 1), None)  # somebody else is quicker
        seen.append(args[2])
        real(*args, **kwargs)

    monkeypatch.setattr(aliases, "move", late)
    decision = promotion_gate.promote(registry, registry.get(MODEL, 2), RULES, policy="first")
    assert not decision.promoted and decision.former == 1 and seen == [None]
    assert registry.aliases(MODEL)["champion"] == 1
    assert history(registry, MODEL)[-1].event == "refused"


def test_of_three_promotions_at_once_one_wins(registry, tmp_path):
    place, gate = registry.workspace, Gate(tmp_path)

    def try_it(number):
        gate.wait()
        mine = Registry(place)
        try:
            move(mine, mine.get(MODEL, number), None)
        except AliasMoved:
            print("too late", flush=True)

    children = [OtherProcess(lambda number=number: try_it(number)) for number in (1, 2, 3)]
    gate.open()
    assert sorted(child.wait() for child in children) == [(0, ""), (0, "too late\n"), (0, "too late\n")]
    assert len(registry.aliases(MODEL)) == 1
    assert [entry.event for entry in history(registry, MODEL)] == ["intent", "promoted"]


def dying_move(workspace, number, method, nth):
    mine, calls = Registry(workspace), []
    real = getattr(mine, method)

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(mine, method, dying)
    move(mine, mine.get(MODEL, number), mine.aliases(MODEL).get("champion"))


def completed(workspace, number):
    mine = Registry(workspace)
    assert complete(mine, MODEL).to == number
    assert complete(mine, MODEL) is None
    assert mine.aliases(MODEL)["champion"] == number


def test_a_kill_in_the_move_is_completed_by_the_next_command(registry):
    place = registry.workspace
    for number, method, nth in ((1, "set_alias", 1), (2, "set_alias", 1), (3, "set_tags", 1), (1, "set_alias", 2)):
        child = OtherProcess(lambda number=number, method=method, nth=nth: dying_move(place, number, method, nth))
        assert child.wait() == (-signal.SIGKILL, "")
        assert OtherProcess(lambda number=number: completed(place, number)).wait() == (0, "")
    assert [entry.event for entry in history(registry, MODEL)] == ["intent", "promoted"] * 4
    assert registry.aliases(MODEL) == {"champion": 1, "previous": 3}


def test_an_alias_moved_by_hand_meanwhile_stands(registry):
    with registry.lock(MODEL):
        intent = audit_log.new("intent", alias="champion", former=None, to=1, who="ann", why="", becomes="promoted")
        registry.record(MODEL).append(intent)
    registry.set_alias(registry.get(MODEL, 3), "champion")
    complete(registry, MODEL)
    assert registry.aliases(MODEL) == {"champion": 3}
    assert history(registry, MODEL)[-1].event == "abandoned"


def test_a_torn_last_line_of_the_record_is_dropped(registry):
    move(registry, registry.get(MODEL, 1), None)
    path = registry.folder / MODEL / "record.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "int')
    move(registry, registry.get(MODEL, 2), 1)
    assert len(history(registry, MODEL)) == 4

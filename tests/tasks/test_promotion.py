"""Who is champion: the rules, compare-and-set against others, kills in the middle, the record, rollback."""

import functools
import json
import os
import signal
import tempfile
from pathlib import Path

import pytest

from fewstep.errors import NotAvailable
from tasks import gate, promotion
from tasks.promotion import AliasMoved, check_floors, complete, decide, history, move, rollback
from tasks.registry import Registry, Version
from tests.registry_world import Forked, Place, with_database

MODEL = "fewstep-toy"
FLOORS = {"max_distance_ratio": 0.5, "min_recall": 0.3, "min_class_accuracy": None}
GOOD = {"distance_ratio": 0.2, "recall": 0.6}


@functools.lru_cache
def three_versions() -> bytes:
    """A database with three versions of other weights; their bytes are not needed here."""
    with tempfile.TemporaryDirectory() as folder:
        with_database(Path(folder) / ".fewstep")
        found = Registry(Place(Path(folder)))
        found.tracking.call("create_registered_model", MODEL)
        for number in range(1, 4):
            tags = {"fewstep.weights": str(number) * 64, "fewstep.results": json.dumps({"floors": GOOD})}
            found.tracking.call("create_model_version", MODEL, f"/tmp/{number}", tags=tags)
        return (Path(folder) / ".fewstep/mlflow.db").read_bytes()


@pytest.fixture
def registry(tmp_path):
    (tmp_path / ".fewstep").mkdir()
    (tmp_path / ".fewstep/mlflow.db").write_bytes(three_versions())
    return Registry(Place(tmp_path))


def version(number: int, weights: str = "") -> Version:
    return Version(MODEL, number, {"fewstep.weights": weights or str(number) * 64}, (), None, "", 0)


def test_floors_name_what_misses_them():
    assert check_floors(GOOD, FLOORS) == ([], GOOD)
    reasons, _ = check_floors({"distance_ratio": 0.7}, FLOORS)
    assert reasons == ["distance_ratio is 0.7, above register.floors.max_distance_ratio = 0.5",
                       "recall was not measured, and register.floors.min_recall asks for it"]  # fmt: skip
    assert len(check_floors({"distance_ratio": float("nan"), "recall": 0.5}, FLOORS)[0]) == 1


def test_the_rules():
    def judge(policy, champion=None, results=GOOD, lineage=lambda: [], compare=None):
        return decide(version(2), champion, policy, FLOORS, results=results, lineage=lineage, compare=compare)[0]

    better = {"difference": -3e-3, "standard_error": 1e-3, "n": 100}
    worse = {"difference": -1e-3, "standard_error": 1e-3, "n": 100}
    assert judge("never") == ["register.promote is never"]
    assert judge("first") == []
    assert "there is a champion" in judge("first", version(1))[0]
    assert "above register.floors" in judge("first", results={**GOOD, "distance_ratio": 2})[0]
    assert judge("gated") == []
    assert judge("gated", lineage=lambda: ["teacher: differs"]) == ["teacher: differs"]
    assert judge("gated", version(1), compare=lambda: better) == []
    assert "not shown better than fewstep-toy/1" in judge("gated", version(1), compare=lambda: worse)[0]
    assert "identical to the champion's" in judge("gated", version(1, weights="2" * 64), compare=lambda: better)[0]
    assert "is the champion already" in judge("gated", version(2))[0]


def test_a_move_is_recorded_and_keeps_the_former_champion(registry):
    move(registry, registry.get(MODEL, 1), None, why="first", who="ann")
    move(registry, registry.get(MODEL, 2), 1, why="better", who="bob", figures={"recall": 0.6})
    assert registry.aliases(MODEL) == {"champion": 2, "previous": 1}
    intents, done = history(registry, MODEL)[::2], history(registry, MODEL)[1::2]
    assert [(entry["event"], entry["who"], entry["from"], entry["to"]) for entry in done] == [
        ("promoted", "ann", None, 1), ("promoted", "bob", 1, 2)]  # fmt: skip
    assert [entry["event"] for entry in intents] == ["intent", "intent"]
    assert '"recall": 0.6' in registry.get(MODEL, 2).tags["fewstep.decision"]
    assert rollback(registry, MODEL, why="worse on eights") == (2, 1)
    assert registry.aliases(MODEL) == {"champion": 1, "previous": 2}
    assert history(registry, MODEL)[-1]["event"] == "rolled back"


def test_nothing_to_roll_back_to(registry):
    with pytest.raises(NotAvailable, match="no previous champion"):
        rollback(registry, MODEL)


def test_a_move_against_another_champion_than_expected_is_refused(registry):
    move(registry, registry.get(MODEL, 1), None)
    with pytest.raises(AliasMoved, match="moved from nothing to version 1"):
        move(registry, registry.get(MODEL, 2), None)
    assert registry.aliases(MODEL) == {"champion": 1}


def test_the_loser_of_a_race_decides_again(registry, monkeypatch):
    real, seen = promotion.move, []

    def late(*args, **kwargs):
        if not seen:
            real(registry, registry.get(MODEL, 1), None)  # somebody else is quicker
        seen.append(args[2])
        real(*args, **kwargs)

    monkeypatch.setattr(promotion, "move", late)
    decision = gate.promote(registry, registry.get(MODEL, 2), policy="first", floors=FLOORS)
    assert not decision.promoted and decision.former == 1 and seen == [None]
    assert registry.aliases(MODEL)["champion"] == 1
    assert history(registry, MODEL)[-1]["event"] == "refused"


def test_of_three_promotions_at_once_one_wins(registry):
    start, go = os.pipe()

    def try_it(number):
        os.close(go)
        os.read(start, 1)
        mine = Registry(registry.workspace)
        try:
            move(mine, mine.get(MODEL, number), None)
        except AliasMoved:
            print("too late", flush=True)

    children = [Forked(lambda number=number: try_it(number)) for number in (1, 2, 3)]
    os.close(go)
    assert sorted(child.wait() for child in children) == [(0, ""), (0, "too late\n"), (0, "too late\n")]
    assert len(registry.aliases(MODEL)) == 1
    assert [entry["event"] for entry in history(registry, MODEL)] == ["intent", "promoted"]


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
    assert complete(mine, MODEL)["to"] == number
    assert complete(mine, MODEL) is None
    assert mine.aliases(MODEL)["champion"] == number


def test_a_kill_in_the_move_is_completed_by_the_next_command(registry):
    place = registry.workspace
    for number, method, nth in ((1, "set_alias", 1), (2, "set_alias", 1), (3, "set_tags", 1), (1, "set_alias", 2)):
        child = Forked(lambda number=number, method=method, nth=nth: dying_move(place, number, method, nth))
        assert child.wait() == (-signal.SIGKILL, "")
        assert Forked(lambda number=number: completed(place, number)).wait() == (0, "")
    assert [entry["event"] for entry in history(registry, MODEL)] == ["intent", "promoted"] * 4
    assert registry.aliases(MODEL) == {"champion": 1, "previous": 3}


def test_an_alias_moved_by_hand_meanwhile_stands(registry):
    with registry.lock(MODEL) as folder:
        entry = {"event": "intent", "id": "x", "alias": "champion", "from": None, "to": 1, "as": "promoted"}
        promotion._append(folder, entry)
    registry.set_alias(registry.get(MODEL, 3), "champion")
    complete(registry, MODEL)
    assert registry.aliases(MODEL) == {"champion": 3}
    assert history(registry, MODEL)[-1]["event"] == "abandoned"


def test_a_torn_last_line_of_the_record_is_dropped(registry):
    move(registry, registry.get(MODEL, 1), None)
    path = registry.folder / MODEL / "record.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "int')
    move(registry, registry.get(MODEL, 2), 1)
    assert len(history(registry, MODEL)) == 4

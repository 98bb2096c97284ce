"""Which version is the champion: floors, the paired test, and an alias move that survives being killed.

MLflow moves aliases last-writer-wins. Here a move is a compare-and-set under a lock: its intent is written to an
append-only record first, then the aliases move, then the record says so; the next command completes what a kill left
half-done. The former champion becomes `previous`, which is what `rollback` returns to.
"""

import getpass
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fewstep.errors import Busy, FewstepError, NotAvailable
from tasks.redaction import redact
from tasks.registry import CHAMPION, PREVIOUS, Registry, Version

CONFIDENCE = 1.645  # one-sided 95 % of a normal distribution


class AliasMoved(Busy):
    """Another promotion moved the alias between the decision and the move. Decide again."""


@dataclass(frozen=True)
class Decision:
    """What was decided, by which rule, and why. `figures` are the numbers the decision rests on."""

    model: str
    version: int
    alias: str
    policy: str
    promoted: bool
    reasons: tuple[str, ...]
    former: int | None = None
    figures: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)


def decide(version: Version, champion: Version | None, policy: str, floors: dict, *, results: dict,
           lineage: Callable[[], list[str]] | None = None,
           compare: Callable[[], dict] | None = None) -> tuple[list[str], dict]:  # fmt: skip
    """Reasons against promoting `version` (none: promote it) and the figures they rest on.

    `policy`: `never`; `first` needs that there is no champion and that the floors hold; `gated` needs a verified
    lineage, the floors, other weights than the champion's and a paired test that shows the candidate better.
    `results` is the candidate's metrics.json, `lineage()` lists what does not verify, `compare()` gives `difference`
    (candidate minus champion, unbiased KID) with `standard_error`. Later checks are not run once one has failed.
    """
    if policy == "never":
        return ["register.promote is never"], {}
    if champion is not None and champion.number == version.number:
        return [f"{version.name} is the champion already"], {}
    if policy == "first" and champion is not None:
        return [f"there is a champion ({champion.name}) and register.promote is first; "
                f"`fewstep promote {version.model}/{version.number}` compares the two"], {}  # fmt: skip
    reasons, figures = check_floors(results, floors)
    if reasons or policy == "first":
        return reasons, figures
    if policy != "gated":
        raise FewstepError(f"unknown promotion policy {policy!r}: it is never, first or gated")
    if champion is not None and version.tags.get("fewstep.weights") == champion.tags.get("fewstep.weights"):
        return [f"its weights are identical to the champion's ({champion.name})"], figures
    reasons = lineage() if lineage is not None else ["no lineage was verified"]
    if reasons or champion is None:
        return reasons, figures
    if compare is None:
        return ["no comparison with the champion was made"], figures
    test = compare()
    figures = {**figures, "comparison": test}
    bound = test["difference"] + CONFIDENCE * test["standard_error"]
    if not bound < 0:
        return [f"not shown better than {champion.name}: unbiased KID differs by {test['difference']:+.2e} "
                f"± {test['standard_error']:.1e} (n = {test['n']}), needed below "
                f"{-CONFIDENCE * test['standard_error']:+.1e}"], figures  # fmt: skip
    return [], figures


def check_floors(results: dict, floors: dict) -> tuple[list[str], dict]:
    """Floors that `results` (metrics.json's `floors` figures) miss, and the figures that were compared.

    A floor is `max_<figure>` or `min_<figure>`; None asks nothing. A figure that was not measured fails its floor.
    """
    reasons, figures = [], {}
    for name, limit in floors.items():
        if limit is None:
            continue
        side, _, figure = name.partition("_")
        value = results.get(figure)
        figures[figure] = value
        if value is None:
            reasons.append(f"{figure} was not measured, and register.floors.{name} asks for it")
        elif side == "max" and not value <= limit:
            reasons.append(f"{figure} is {value:.4g}, above register.floors.{name} = {limit:g}")
        elif side == "min" and not value >= limit:
            reasons.append(f"{figure} is {value:.4g}, below register.floors.{name} = {limit:g}")
    return reasons, figures


def move(registry: Registry, version: Version, expected: int | None, *, alias: str = CHAMPION, event: str = "promoted",
         why: str = "", who: str | None = None, figures: dict | None = None) -> None:  # fmt: skip
    """Points `alias` at `version` if it still points at version number `expected` (None: at nothing).

    Raises AliasMoved when it does not. Killed anywhere, the next `complete` finishes it.
    """
    with registry.lock(version.model) as folder:
        _complete(registry, version.model, folder)
        found = registry.aliases(version.model).get(alias)
        if found != expected:
            raise AliasMoved(f"{version.model}@{alias} moved from {_number(expected)} to {_number(found)} meanwhile",
                             hint="run the command again: it decides against the new one")  # fmt: skip
        entry = {"event": "intent", "id": uuid.uuid4().hex, "alias": alias, "from": expected, "to": version.number,
                 "as": event, "when": _now(), "who": who or author(), "why": redact(why),
                 "figures": figures or {}}  # fmt: skip
        _append(folder, entry)
        _apply(registry, version.model, folder, entry)


def record_refusal(registry: Registry, decision: Decision, who: str | None = None) -> None:
    """Writes a refusal to the record and to the version's tags."""
    with registry.lock(decision.model) as folder:
        entry = {"event": "refused", "id": uuid.uuid4().hex, "alias": decision.alias, "from": decision.former,
                 "to": decision.version, "when": _now(), "who": who or author(), "why": "; ".join(decision.reasons),
                 "figures": decision.figures}  # fmt: skip
        _append(folder, entry)
        registry.set_tags(registry.get(decision.model, decision.version), decision=json.dumps(entry, sort_keys=True))


def rollback(registry: Registry, model: str, *, why: str = "", who: str | None = None) -> tuple[int, int]:
    """Makes the previous champion champion again; returns the numbers (from, to).

    Raises NotAvailable when there is no champion or no previous one.
    """
    complete(registry, model)
    aliases = registry.aliases(model)
    current, former = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    if former is None or current is None or former == current:
        raise NotAvailable(f"{model} has no previous champion to return to",
                           hint=f"`fewstep promote {model}/VERSION` makes another version champion")  # fmt: skip
    move(registry, registry.get(model, former), current, event="rolled back", why=why, who=who)
    return current, former


def complete(registry: Registry, model: str) -> dict | None:
    """Finishes the alias move that a kill left half-done; returns its entry, or None when there was none."""
    if not (registry.folder / model / "record.jsonl").exists():
        return None
    with registry.lock(model) as folder:
        return _complete(registry, model, folder)


def history(registry: Registry, model: str) -> list[dict]:
    """The record, oldest first: who moved or was refused what, when, why, with the figures."""
    return _read(registry.folder / model)


def author() -> str:
    """Who is recorded: FEWSTEP_USER, else the account's name."""
    return os.environ.get("FEWSTEP_USER") or getpass.getuser()


def _complete(registry: Registry, model: str, folder: Path) -> dict | None:
    entries = _read(folder)
    closed = {entry["id"] for entry in entries if entry["event"] != "intent"}
    waiting = [entry for entry in entries if entry["event"] == "intent" and entry["id"] not in closed]
    if not waiting:
        return None
    entry = waiting[-1]
    found = registry.aliases(model).get(entry["alias"])
    if found in (entry["from"], entry["to"]):
        _apply(registry, model, folder, entry)
    else:  # somebody moved it by hand in between: theirs stands
        _append(folder, {**entry, "event": "abandoned", "found": found, "when": _now()})
    return entry


def _apply(registry: Registry, model: str, folder: Path, entry: dict) -> None:
    """Every step may be repeated. The former champion is noted before the champion moves: never none."""
    version = registry.get(model, entry["to"])
    if entry["from"] is not None and entry["alias"] == CHAMPION:
        registry.set_alias(registry.get(model, entry["from"]), PREVIOUS)
    registry.set_alias(version, entry["alias"])
    done = {**entry, "event": entry["as"], "when": _now()}
    registry.set_tags(version, decision=json.dumps(done, sort_keys=True))
    _append(folder, done)


def _append(folder: Path, entry: dict) -> None:
    path = folder / "record.jsonl"
    with open(path, "a+b") as file:
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):  # a line torn by a power cut was never acted upon
            file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path) -> list[dict]:
    path = folder / "record.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _number(number: int | None) -> str:
    return "nothing" if number is None else f"version {number}"

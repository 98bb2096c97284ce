"""Moves of an alias in the order in which they happened, agreed upon by all hosts that share an MLflow store.

A host's lock and record (tasks.registry.audit_log) say nothing to another host, and MLflow moves aliases last-writer-wins. But its
database never changes a run's parameter. So the n-th move of an alias is the parameter `fewstep.<alias>.<n>` of one run
that all hosts know, the registration of the model's first version: whoever writes it first has the move. Everybody may
carry it out, and says so in `….done`; there is no lease that could expire while its holder sleeps.
"""

import json
import re
from dataclasses import dataclass

from fewstep.util.errors import Busy, NotAvailable
from tasks.registry.model_registry import Registry

_KEYS = ("id", "alias", "from", "to", "as", "who", "when", "why")
_NAME = re.compile(r"^fewstep\.(?P<alias>[A-Za-z0-9_-]+)\.(?P<number>[0-9]+)(?P<done>\.done)?$")
_WHY = 500  # characters; MLflow takes 6,000 in the value of a parameter


class Taken(Busy):
    """Another host wrote the next move first."""


@dataclass(frozen=True)
class Move:
    """The n-th move of an alias: the parts of the record's entry that another host needs to carry it out."""

    number: int
    entry: dict
    done: bool


class Moves:
    """All moves of a model's aliases, as they were when this was made."""

    def __init__(self, registry: Registry, model: str):
        self._tracking, self._run = registry.tracking, _run(registry, model)
        self._of: dict[str, dict[int, str]] = {}
        finished = set()
        for name, value in self._run.data.params.items():
            match = _NAME.match(name)
            if match and match["done"]:
                finished.add((match["alias"], int(match["number"])))
            elif match:
                self._of.setdefault(match["alias"], {})[int(match["number"])] = value
        self._finished = finished

    @property
    def aliases(self) -> list[str]:
        return sorted(self._of)

    def newest(self, alias: str) -> Move | None:
        numbers = self._of.get(alias)
        return self._move(alias, max(numbers)) if numbers else None

    def find(self, alias: str, identity: str) -> Move | None:
        """The move that carries out the record's entry with this id; None where it is not among them."""
        found = (self._move(alias, number) for number in self._of.get(alias, {}))
        return next((move for move in found if move.entry["id"] == identity), None)

    def claim(self, entry: dict) -> Move:
        """Makes `entry` the move after those seen here. Raises Taken when another host was quicker."""
        newest = self.newest(entry["alias"])
        number = newest.number + 1 if newest else 1
        said = {key: entry[key] for key in _KEYS} | {"why": entry["why"][:_WHY]}
        if not self._write(f"fewstep.{entry['alias']}.{number:04d}", json.dumps(said, sort_keys=True)):
            raise Taken(f"another host moved {entry['alias']} meanwhile")
        return Move(number, said, False)

    def finish(self, move: Move) -> None:
        self._write(f"fewstep.{move.entry['alias']}.{move.number:04d}.done", "1")

    def _move(self, alias: str, number: int) -> Move:
        return Move(number, json.loads(self._of[alias][number]), (alias, number) in self._finished)

    def _write(self, name: str, value: str) -> bool:
        return self._tracking.write_once(self._run.info.run_id, name, value)


def _run(registry: Registry, model: str):
    """The registration run of the model's first version that still has one: the same on every host."""
    for version in registry.versions(model):
        run = registry.tracking.find("get_run", version.run_id) if version.run_id else None
        if run is not None and run.info.lifecycle_stage == "active":
            return run
    raise NotAvailable(f"no alias of {model} can move: the runs that registered its versions are gone from MLflow",
                       hint="`mlflow runs restore` brings a run back; `fewstep run` registers anew")  # fmt: skip

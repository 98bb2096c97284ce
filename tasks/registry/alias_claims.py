"""The moves of an alias in the order in which they happened, agreed upon by all hosts that share an MLflow store.

A host's lock and audit log say nothing to another host, and MLflow moves aliases last-writer-wins. But its database
never changes a run's parameter. So the n-th move of an alias is the parameter `fewstep.<alias>.<n>` of a run that all
hosts know, the registration of the model's first version: the host that writes it first has the move. Any host may
carry a move out, and writes `….done` afterwards; there is no lease that could expire while its holder sleeps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fewstep.util.errors import Busy, NotAvailable
from tasks.registry.audit_log import Entry
from tasks.storage.documents import read_document
from tasks.tracking.mlflow_client import Run, if_present

if TYPE_CHECKING:
    from tasks.registry.model_registry import Registry  # it loads this module

_NAME = re.compile(r"^fewstep\.(?P<alias>[A-Za-z0-9_-]+)\.(?P<number>[0-9]+)$")
_WHY = 500  # characters; MLflow takes 6,000 in the value of a parameter


class Taken(Busy):
    """Another host wrote the next move first."""


class Claim(Entry):
    """The intent of a move as the parameter holds it: what another host needs to carry it out, without figures."""

    event: Literal["intent"] = "intent"


@dataclass(frozen=True)
class Move:
    """The n-th move of an alias, and whether some host carried it out."""

    number: int
    entry: Entry
    done: bool


class Moves:
    """All moves of a model's aliases at the time of asking: `of[alias]`, oldest first.

    Raises NotAvailable when MLflow has none of the runs that registered the model's versions, and DataDiffers for a
    damaged parameter.
    """

    def __init__(self, registry: Registry, model: str):
        self._tracking, self._run = registry.tracking, _registration_run(registry, model)
        params = self._run.data.params
        self.of: dict[str, list[Move]] = {}
        for name, value in params.items():
            match = _NAME.match(name)
            if match:
                entry = read_document(Claim, value, f"{model}: parameter {name}")
                move = Move(int(match["number"]), entry, f"{name}.done" in params)
                self.of.setdefault(match["alias"], []).append(move)
        for moves in self.of.values():
            moves.sort(key=lambda move: move.number)

    def newest(self, alias: str) -> Move | None:
        return self.of[alias][-1] if alias in self.of else None

    def find(self, entry: Entry) -> Move | None:
        """The move that carries out `entry` of the audit log; None where no host claimed it."""
        return next((move for move in self.of.get(entry.alias, []) if move.entry.id == entry.id), None)

    def claim(self, entry: Entry) -> Move:
        """Makes the intent `entry` the move after the newest. Raises Taken when another host was quicker."""
        newest = self.newest(entry.alias)
        number = newest.number + 1 if newest else 1
        claimed = entry.model_copy(update={"why": entry.why[:_WHY], "figures": {}})
        if not self._write(f"fewstep.{entry.alias}.{number:04d}", claimed.to_json()):
            raise Taken(f"another host moved {entry.alias} meanwhile")
        return Move(number, claimed, False)

    def finish(self, move: Move) -> None:
        """Writes that `move` was carried out."""
        self._write(f"fewstep.{move.entry.alias}.{move.number:04d}.done", "1")

    def _write(self, name: str, value: str) -> bool:
        return self._tracking.write_once(self._run.info.run_id, name, value)


def _registration_run(registry: Registry, model: str) -> Run:
    """The registration run of the model's first version that still has one: the same on every host."""
    for run_id in registry.registration_runs(model):
        run = if_present(registry.tracking.client.get_run, run_id)
        if run is not None and run.info.lifecycle_stage == "active":
            return run
    raise NotAvailable(f"no alias of {model} can move: the runs that registered its versions are gone from MLflow",
                       hint="`mlflow runs restore` brings a run back; `fewstep run` registers anew")  # fmt: skip

"""The units of one stage's work: done in this process, or told to another one as a message.

A message holds all that a unit is; `tasks.unit` does what messages say, and tells how it goes by events.
"""

from __future__ import annotations

from typing import Any

from tasks.engine import work_fingerprints
from tasks.engine.context_message import ContextMessage, WorkMessage, marked
from tasks.engine.shared_unit import run_unit
from tasks.engine.unit_exchange import Offer, download, offer
from tasks.engine.unit_logs import log_again
from tasks.stages.base import Context, Stage
from tasks.storage.sharing.shared_work import SharedFile


class UnitMessage(WorkMessage):
    """One unit of work of a stage.

    Attributes:
        key: identity of the stage's output.
        unit: name of the unit.
        offer: where a process finds what it needs that does not; None where there is no such place.
        threads: that one operation uses on a CPU where the stage's bits depend on it.
        previous, previous_code_equal: as in `Context`.
    """

    key: str
    unit: str
    offer: Offer | None
    threads: int
    previous: str | None
    previous_code_equal: bool

    @property
    def work_of(self) -> dict[str, Any]:
        """All but the unit: what units of one work have in common."""
        return self.model_dump(exclude={"unit"})


class UnitWork:
    """The units of one stage's work. Called with a unit's name it does that unit here."""

    def __init__(self, stage: Stage, context: Context):
        self.stage, self.context = stage, context

    def __call__(self, unit: str) -> None:
        run_unit(self.stage, self.context, unit)

    def message(self, unit: str, *, far: bool = False) -> UnitMessage:
        """What another process must know to do this unit; `far`: one that may not see this disk.

        Raises FewstepError where the store that hosts share does not take what it needs.
        """
        import torch  # whoever has units to be done elsewhere has loaded it

        context = self.context
        return UnitMessage(
            **ContextMessage.facts(context), key=context.key, unit=unit, mark=context.once(marked),
            offer=context.once(offer) if far else None, threads=torch.get_num_threads(),
            previous=None if context.previous is None else str(context.previous),
            previous_code_equal=context.previous_code_equal,
        )  # fmt: skip

    def hear(self, event: dict[str, Any]) -> None:
        """Take in what another process tells of a unit of ours."""
        match event:
            case {"advance": count}:
                self.context.advance(count)
            case {"warning": text}:
                self.context.warn(text)
            case {"log": told}:
                log_again(told)
            case {"cost": figures}:
                self.context.record_cost(figures)
            case {"fingerprint": known}:
                work_fingerprints.note(self.context, known)
            case {"made": files}:
                made = tuple(SharedFile.model_validate(file) for file in files)
                download(self.context.once(offer).store, made, self.context.work)
            case _:
                raise ValueError(f"unknown event of a unit: {sorted(event)}")

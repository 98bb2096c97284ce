"""The stages of the pipeline, found in tasks/stages, in an order in which they can run. No torch here."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable

import tasks.stages
from fewstep.util.config import unknown
from fewstep.util.errors import SettingsError
from tasks.stages.base import Stage


def discover() -> list[Stage]:
    """One object of every Stage class that a module of tasks/stages defines. TypeError for one that lacks methods."""
    stages = []
    for module in pkgutil.iter_modules(tasks.stages.__path__):
        loaded = importlib.import_module(f"{tasks.stages.__name__}.{module.name}")
        kinds = [value for value in vars(loaded).values() if inspect.isclass(value) and issubclass(value, Stage)
                 and value.__module__ == loaded.__name__ and value is not Stage]  # fmt: skip
        for kind in kinds:
            if inspect.isabstract(kind):
                lacking = ", ".join(sorted(kind.__abstractmethods__))
                raise TypeError(f"{loaded.__name__}: {kind.__name__} lacks {lacking}")
            stages.append(kind())
    return stages


def in_order(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Every stage after those it reads, and directly before the first that needs it: those in DVC before the others.

    Raises SettingsError for an input that no stage makes, for two stages of one name or output, and for a circle.
    """
    stages = list(stages)
    named = {stage.name: stage for stage in stages}
    if len(named) != len(stages) or len({stage.output for stage in named.values()}) != len(named):
        raise SettingsError("two stages have the same name or the same output folder")
    ordered: dict[str, Stage] = {}

    def place(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise SettingsError(f"stages read each other: {' ← '.join((*above, name))}")
        if name not in named:
            raise SettingsError(f"stage '{above[-1]}' reads '{name}', which no stage makes")
        for read in named[name].inputs:
            place(read, (*above, name))
        ordered.setdefault(name, named[name])

    read_in_dvc = {name for stage in named.values() if stage.in_dvc for name in stage.inputs}
    ends = [name for name, stage in named.items() if stage.in_dvc and name not in read_in_dvc]
    for name in (*sorted(ends), *sorted(named)):
        place(name, ())
    return tuple(ordered.values())


STAGES = in_order(discover())
BY_NAME = {stage.name: stage for stage in STAGES}
IN_DVC = tuple(stage for stage in STAGES if stage.in_dvc)


def stage(name: str) -> Stage:
    """The stage of this name. Raises SettingsError naming the nearest known one."""
    if name not in BY_NAME:
        raise SettingsError(unknown("stage", name, tuple(BY_NAME)))
    return BY_NAME[name]

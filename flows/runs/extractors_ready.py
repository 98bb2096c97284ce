"""Whether the files of further feature extractors are there, asked before a run that is to read them begins to work."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.config.schema import Settings
from tasks.engine.plan import PlanItem
from tasks.storage.workspace import Workspace

_MEASURE = ("baselines", "evaluate")
"""Stages that look at samples through extractors."""


def require_extractors(workspace: Workspace, settings: Settings, items: Iterable[PlanItem]) -> None:
    """Raises SettingsError, saying what to put where, for a file that is missing or another one than expected.

    Where no stage of `items` is to read them nothing is asked: their results may have come from another host.
    """
    expected = settings.evaluate.extractors
    if expected and any(item.stage in _MEASURE and item.state in ("missing", "stale") for item in items):
        from tasks.data import extractor_files  # loads torch

        extractor_files.check(workspace, expected)

"""Where the files of further feature extractors lie: `.fewstep/extractors`, or what FEWSTEP_EXTRACTORS names."""

import os
from pathlib import Path

from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.extractor_loading import load_named, verify
from fewstep.util.device import default_device


def folder(ctx) -> Path:
    """The folder; its files are named by hash in the settings, so the place changes no byte."""
    given = os.environ.get("FEWSTEP_EXTRACTORS")
    if given or ctx.workspace is None:
        return Path(given or "extractors")
    return ctx.workspace.shared / "extractors"


def check(ctx) -> None:
    """Raises SettingsError, saying what to put where, when a file is missing or another one than expected."""
    verify(folder(ctx), ctx.settings.get("extractors", {}))


def load(ctx) -> list[Extractor]:
    """Those that `evaluate.extractors` names."""
    wanted = ctx.settings.get("extractors", {})
    return load_named(folder(ctx), wanted, default_device()) if wanted else []


def cache(ctx) -> Path | None:
    """Where what was seen in reference images is kept, by content."""
    return None if ctx.workspace is None else ctx.workspace.reference

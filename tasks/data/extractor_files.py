"""Where the files of further feature extractors lie: `.fewstep/extractors`, or what FEWSTEP_EXTRACTORS names."""

import os
from collections.abc import Mapping
from pathlib import Path

from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.extractor_loading import load_named, verify
from fewstep.util.device import default_device
from tasks.storage.workspace import Workspace


def folder(workspace: Workspace) -> Path:
    """The folder; its files are named by hash in the settings, so the place changes no byte."""
    return Path(os.environ.get("FEWSTEP_EXTRACTORS") or workspace.shared / "extractors")


def check(workspace: Workspace, expected: Mapping[str, str]) -> None:
    """Raises SettingsError, saying what to put where, when a file is missing or its hash is not the expected one."""
    verify(folder(workspace), expected)


def load(workspace: Workspace, expected: Mapping[str, str]) -> list[Extractor]:
    """The extractors named in `expected` (name → SHA-256 of the files), verified, on the device."""
    return load_named(folder(workspace), expected, str(default_device()))

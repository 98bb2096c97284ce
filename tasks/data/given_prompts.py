"""The file of `data.prompts`: texts alone. No torch here."""

from __future__ import annotations

from pathlib import Path

from fewstep.data.prompt_files import PromptFile, read_prompt_file
from fewstep.data.tables import shown
from fewstep.util.errors import SettingsError


def read_given_prompts(path: Path) -> PromptFile:
    """The prompts of a file outside the pipeline.

    Raises:
        SettingsError: as `read_prompt_file`; or it names images, whose bytes would be in no key.
    """
    found = read_prompt_file(path)
    images = [entry for entry in found.entries if entry.image is not None]
    if images:
        raise SettingsError(f"{shown(path)}: line {images[0].line}, column 'image': data.prompts takes prompts without "
                            "images", hint=f"bring both in: `fewstep data add {shown(path)}`, then data.source=raw")
    return found

"""The files of a kind of stack, rendered into a folder for the tests."""

from __future__ import annotations

from pathlib import Path

from fewstep.util.config import parse
from flows.stack.render import rendered
from tasks.config.schema import Settings

IMAGE = "registry.example.org/team/fewstep:0123456789ab"


def settings(**stack) -> Settings:
    """params.yaml with this section `stack`."""
    return parse(Settings, {"stack": stack}, "params.yaml")


def write(kind: str, folder: Path, **stack) -> Path:
    """`fewstep stack render KIND --to FOLDER` with these settings."""
    for name, text in rendered(settings(**stack), kind, IMAGE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder

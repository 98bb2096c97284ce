"""DVC's default remote, read from its configuration files without importing DVC, which takes a second."""

from __future__ import annotations

import configparser
from dataclasses import dataclass

from tasks.storage.workspace import Workspace


@dataclass(frozen=True)
class Remote:
    """A remote: name, URL or path as .dvc/config has it, and the address of its server, None where none is named."""

    name: str
    url: str
    endpoint: str | None = None


def default_remote(workspace: Workspace) -> Remote | None:
    """The remote that `dvc push` uses in this checkout; None without one."""
    parser = configparser.ConfigParser()
    parser.read([workspace.root / ".dvc" / "config", workspace.root / ".dvc" / "config.local"])
    name = parser.get("core", "remote", fallback=None)
    section = f"'remote \"{name}\"'"
    url = parser.get(section, "url", fallback=None)
    return Remote(name, url, parser.get(section, "endpointurl", fallback=None)) if name and url else None

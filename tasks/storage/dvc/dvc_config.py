"""DVC's default remote, read from its configuration files without importing DVC, which takes a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configobj import ConfigObj, ConfigObjError

from fewstep.util.errors import SettingsError
from tasks.storage.workspace import Workspace


@dataclass(frozen=True)
class Remote:
    """A remote: name, URL or path as .dvc/config has it, and the address of its server, None where none is named."""

    name: str
    url: str
    endpoint: str | None = None


def default_remote(workspace: Workspace) -> Remote | None:
    """The remote that `dvc push` uses in this checkout; None without one."""
    parts = read_config(workspace.root / ".dvc" / "config")
    parts.merge(read_config(local_config(workspace)))
    return remote_in(parts, str(workspace.root / ".dvc"))


def remote_in(parts: ConfigObj, source: str) -> Remote | None:
    """The default remote in a configuration; `source` names it in errors. Raises SettingsError for a malformed one."""
    name = _section(source, parts, "core").get("remote")
    remote = _section(source, parts, f'remote "{name}"')
    for key in ("url", "endpointurl"):
        if not isinstance(remote.get(key, ""), str):
            raise SettingsError(f"{source}: the {key} of the remote {name} has a comma and reads as a "
                                "list", hint=f"put the {key} in double quotes")
    return Remote(name, remote["url"], remote.get("endpointurl")) if name and remote.get("url") else None


def _section(source: str, parts: ConfigObj, name: str) -> dict:
    found = parts.get(name, {})
    if not isinstance(found, dict):
        raise SettingsError(f"{source}: {name} holds a value, not a section")
    return found


def local_config(workspace: Workspace) -> Path:
    """DVC's settings of this checkout alone."""
    return workspace.root / ".dvc" / "config.local"


def read_config(path: Path) -> ConfigObj:
    """A configuration file of DVC as DVC reads it; an empty one where there is none. Raises SettingsError for others.

    Its `write` quotes what the syntax would take for something else, such as a comma in a path.
    """
    try:
        return ConfigObj(str(path), encoding="utf-8", interpolation=False)
    except (ConfigObjError, UnicodeError, OSError) as error:
        raise SettingsError(f"{path}: not a configuration of DVC: {' '.join(str(error).split())}") from None

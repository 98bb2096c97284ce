"""Checks of what is installed: Python, the packages and their versions, torch and its device."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from fewstep.util.cores import cores
from flows.doctor.finding import Finding
from tasks.storage.workspace import Workspace


def python(workspace: Workspace) -> Iterator[Finding]:
    """The version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Finding("python", "ok", version)
    else:
        yield Finding("python", "error", f"{version}; 3.11 or 3.12 is needed", "make PYTHON=python3.12 run")


def versions(workspace: Workspace) -> Iterator[Finding]:
    """The packages that the project declares and those of constraints.txt, and two that are known to break Prefect."""
    tested = _constraints(workspace.code / "constraints.txt")
    declared = [Requirement(line) for line in importlib.metadata.requires("fewstep") or []]
    missing = [item.name for item in declared
               if (item.marker is None or item.marker.evaluate({"extra": ""})) and _installed(item.name) is None]
    present = {name: (_installed(name), version) for name, version in tested.items() if _installed(name)}
    others = [f"{name} {have} (tested: {version})" for name, (have, version) in present.items()
              if Version(have).public != Version(version).public]
    if missing:
        yield Finding("packages", "error", f"not installed: {', '.join(missing)}", "make environment")
    if _at_least("sqlalchemy", "2.1"):
        yield Finding("sqlalchemy", "error", f"{_installed('sqlalchemy')}: from 2.1 on Prefect's scheduler cannot "
                      "enter the runs of a schedule into its database", "pip install 'sqlalchemy<2.1'")
    if _at_least("fastapi", "0.151"):
        yield Finding("fastapi", "error", f"{_installed('fastapi')}: from 0.151 on Prefect's server refuses its own "
                      "client or does not start", "pip install 'fastapi<0.151'")
    if others:
        shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        yield Finding("packages", "warning", f"differ from constraints.txt: {shown}",
                      "pip install -c constraints.txt -e '.[dev,server,docs]'")
    elif not missing:
        text = f"{len(tested)} packages as tested" if tested else "no constraints.txt here to compare with"
        yield Finding("packages", "ok" if tested else "warning", text)


def device(workspace: Workspace) -> Iterator[Finding]:
    """torch, GPUs and cores."""
    try:
        import torch  # takes seconds, and a broken installation can raise anything
    except Exception as error:
        yield Finding("device", "error", f"torch does not import: {error}", "make environment")
        return
    count = cores()
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        bfloat = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding("device", "ok", f"{names} ({bfloat}), {count} CPU cores, torch {torch.__version__}")
    else:
        yield Finding("device", "ok", f"{count} CPU cores, torch {torch.__version__}")


def _constraints(path: Path) -> dict[str, str]:
    """Versions by name of a file of `name==version` lines; empty without the file."""
    versions = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            item = Requirement(re.sub(r"(^|\s)#.*", "", line))
        except InvalidRequirement:      # an empty line, an option
            continue
        versions |= {canonicalize_name(item.name): pin.version for pin in item.specifier if pin.operator == "=="}
    return versions


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _at_least(name: str, version: str) -> bool:
    have = _installed(name)
    return have is not None and Version(Version(have).base_version) >= Version(version)

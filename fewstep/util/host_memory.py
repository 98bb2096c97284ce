"""How much memory of this machine is free to take. No torch here."""

from __future__ import annotations

from pathlib import Path

_SYSTEM = Path("/")


def free_memory(system: Path = _SYSTEM) -> int | None:
    """Bytes that this process may take before the kernel, or its container's limit, ends one; None: not told here.

    system: the root of the file system that tells of it.
    """
    found = [value for value in (_of_machine(system), *_of_groups(system)) if value is not None]
    return max(0, min(found)) if found else None


def _of_machine(system: Path) -> int | None:
    try:
        lines = (system / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _of_groups(system: Path) -> list[int | None]:
    """Of the control groups (version 2) that the process is in: its own and those around it."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line.partition("::")[2] for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    mount = system / "sys/fs/cgroup"
    return [_of_group(mount / path) for path in (Path(own.strip("/")), *Path(own.strip("/")).parents)]


def _of_group(folder: Path) -> int | None:
    try:
        limit, used = (folder / "memory.max").read_text().strip(), int((folder / "memory.current").read_text())
        if limit == "max":
            return None
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    cached = sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))
    return int(limit) - used + cached      # files in memory give way

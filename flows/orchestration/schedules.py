"""Schedules: one small file each in the shared .fewstep/schedules. `fewstep serve` makes Prefect deployments of them.

The files are the truth because without a server there is no scheduler to tell; a serving one reads them again every few
seconds, so what is added, changed or removed takes effect at once.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from fewstep.util.config import unknown
from fewstep.util.errors import DataDiffers, SettingsError
from fewstep.util.files import write_atomically
from tasks.storage.workspace import Workspace
from tasks.tracking.run_records import now


@dataclass(frozen=True)
class Schedule:
    """`cron` in UTC unless `timezone` says otherwise; `sets` are the `--set` assignments of each of its runs; `pool` is
    a Prefect work pool, None means the runner of `fewstep serve`."""

    name: str
    cron: str
    timezone: str = "UTC"
    sets: tuple[str, ...] = ()
    pool: str | None = None
    created: str = ""

    def to_dict(self) -> dict:
        return asdict(self)


def folder(workspace: Workspace) -> Path:
    return workspace.shared / "schedules"


def check_cron(cron: str, timezone: str) -> None:
    """Raises SettingsError for a cron line or time zone that Prefect would refuse. No Prefect here."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    fields = cron.split()
    limits = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    names = ("minute", "hour", "day of the month", "month", "day of the week")
    if len(fields) != 5:
        raise SettingsError(f"--cron {cron!r}: expected five fields (minute hour day month weekday), got {len(fields)}",
                            hint='such as "0 2 * * *" for every night at two')
    for text, (low, high), name in zip(fields, limits, names, strict=True):
        for part in text.split(","):
            match = re.fullmatch(r"(\*|[A-Za-z]{3}|\d+)(?:-([A-Za-z]{3}|\d+))?(?:/(\d+))?", part)
            numbers = [int(item) for item in (match.groups()[:2] if match else ()) if item and item.isdigit()]
            if not match or any(not low <= number <= high for number in numbers) or match.group(3) == "0":
                raise SettingsError(f"--cron {cron!r}: {part!r} is no {name} ({low} to {high})")
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise SettingsError(f"--timezone {timezone!r}: no such time zone", hint="such as Europe/Berlin") from None


def save(workspace: Workspace, schedule: Schedule) -> Schedule:
    """Writes it, replacing one of the same name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", schedule.name):
        raise SettingsError(f"--name {schedule.name!r}: expected small letters, digits, '-', '_' and '.'")
    schedule = Schedule(**{**schedule.to_dict(), "sets": tuple(schedule.sets), "created": now()})
    write_atomically(folder(workspace) / f"{schedule.name}.json", json.dumps(schedule.to_dict(), indent=1))
    return schedule


def load_all(workspace: Workspace) -> list[Schedule]:
    """All schedules by name. Raises DataDiffers for a file that is none."""
    found = []
    for path in sorted(folder(workspace).glob("*.json")) if folder(workspace).is_dir() else []:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            found.append(Schedule(**{**data, "sets": tuple(data["sets"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise DataDiffers(f"{path}: not a schedule: {error}",
                              hint="remove the file and create the schedule anew") from None
    return found


def remove(workspace: Workspace, name: str) -> Schedule:
    """Deletes a schedule. Raises SettingsError, naming the nearest, when there is none of that name."""
    found = {schedule.name: schedule for schedule in load_all(workspace)}
    if name not in found:
        none = f"no schedule {name!r}: there are none"
        raise SettingsError(unknown("schedule", name, tuple(found)) if found else none)
    (folder(workspace) / f"{name}.json").unlink()
    return found[name]

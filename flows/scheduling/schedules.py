"""Schedules: one small file each in the shared .fewstep/schedules. `fewstep serve` makes Prefect deployments of them.

The files are the truth because without a server there is no scheduler to tell; a serving one reads them again every few
seconds, so what is added, changed or removed takes effect at once.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import ValidationError

from fewstep.util.config import Strict, parse, unknown
from fewstep.util.errors import DataDiffers, SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.plain_data import from_json
from tasks.config import params_file
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import now

FIELDS = "minute (0 to 59), hour (0 to 23), day of the month (1 to 31), month (1 to 12), weekday (0 to 7)"


class Schedule(Strict):
    """When the pipeline runs, and with which settings.

    Attributes:
        name: of the schedule and of its file.
        cron: minute, hour, day of the month, month, weekday.
        timezone: in which `cron` is read.
        sets: the `--set` assignments of each of its runs.
        pool: a Prefect work pool; None means the runner of `fewstep serve`.
        repository, commit: what the pool's workers clone, and of which they are made.
        code_repository, code_commit: the same of code that lies apart from the workspace.
        created: moment in UTC.
    """

    name: str
    cron: str
    timezone: str = "UTC"
    sets: tuple[str, ...] = ()
    pool: str | None = None
    repository: str | None = None
    commit: str | None = None
    code_repository: str | None = None
    code_commit: str | None = None
    created: str = ""


def folder(workspace: Workspace) -> Path:
    """Where the files of the schedules lie."""
    return workspace.shared / "schedules"


def check_cron(cron: str, timezone: str) -> None:
    """Raises SettingsError for a cron line or time zone that Prefect would refuse, or a line that names no moment."""
    # Prefect takes two seconds to load
    from prefect._vendor.croniter import croniter
    from prefect._vendor.croniter.croniter import CroniterBadDateError
    from prefect.client.schemas.schedules import CronSchedule

    if len(cron.split()) != 5:      # Prefect would take a sixth field for seconds
        raise SettingsError(f"--cron {cron!r}: expected five fields (minute hour day month weekday), got "
                            f"{len(cron.split())}", hint='such as "0 2 * * *" for every night at two')
    wrong_zone = SettingsError(f"--timezone {timezone!r}: no such time zone", hint="such as Europe/Berlin")
    if not timezone:        # Prefect would take it for its own default
        raise wrong_zone
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        if any(problem["loc"] == ("timezone",) for problem in error.errors()):
            raise wrong_zone from None
        raise SettingsError(f"--cron {cron!r}: not a cron line; its five fields are {FIELDS}",
                            hint='such as "0 2 * * *" for every night at two') from None
    except OSError:         # a name too long for a file, or of a folder of zones
        raise wrong_zone from None
    try:
        croniter(cron).get_next()
    except CroniterBadDateError:
        raise SettingsError(f"--cron {cron!r}: there is no such day, so it would never run") from None


def check_name(name: str) -> None:
    """Raises SettingsError for a name that is no file name of a schedule."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise SettingsError(f"--name {name!r}: expected small letters, digits, '-', '_' and '.'")


def save(workspace: Workspace, schedule: Schedule) -> Schedule:
    """Writes it, replacing one of the same name, and returns it with its moment of creation."""
    check_name(schedule.name)
    schedule = schedule.model_copy(update={"created": now()})
    write_atomically(folder(workspace) / f"{schedule.name}.json", schedule.model_dump_json(indent=1))
    return schedule


def load(path: Path) -> Schedule:
    """The schedule in a file. Raises DataDiffers for a file that holds none, or one that Prefect would refuse."""
    try:
        schedule = parse(Schedule, from_json(path.read_bytes()), "not a schedule")
    except (SettingsError, ValueError, OSError) as error:
        told = error if isinstance(error, SettingsError) else f"not a schedule: {error}"
        raise DataDiffers(f"{path}: {' '.join(str(told).split())}",
                          hint="remove the file and create the schedule anew") from None
    if schedule.name != path.stem:
        raise DataDiffers(f"{path}: holds a schedule of another name, {schedule.name!r}",
                          hint="the name in the file and the name of the file are one")
    return schedule


def load_good(workspace: Workspace) -> tuple[list[Schedule], dict[str, str]]:
    """The schedules that can be served, by name, and for each name of a file that holds none what is wrong with it."""
    good, bad = [], {}
    for path in sorted(folder(workspace).glob("*.json")):
        try:
            schedule = load(path)
            check_name(schedule.name)
            check_cron(schedule.cron, schedule.timezone)
            params_file.apply({}, list(schedule.sets))
            good.append(schedule)
        except SettingsError as error:
            bad[path.stem] = f"{path}: {error}"
        except DataDiffers as error:
            if path.exists():       # else it was removed meanwhile
                bad[path.stem] = str(error)
    return good, bad


def remove(workspace: Workspace, name: str) -> Schedule:
    """Deletes a schedule. Raises SettingsError, naming the nearest, when there is none of that name."""
    paths = {path.stem: path for path in sorted(folder(workspace).glob("*.json"))}
    if not paths:
        raise SettingsError(f"no schedule {name!r}: there are none")
    if name not in paths:
        raise SettingsError(unknown("schedule", name, tuple(paths)))
    schedule = load(paths[name])
    paths[name].unlink()
    return schedule

"""Checks of what runs beside a run: whoever executes schedules, and the servers that the environment names."""

from __future__ import annotations

import os
from collections.abc import Iterator

from fewstep.util.errors import NotAvailable
from flows.doctor.finding import Finding
from flows.orchestration.child_server import answers
from flows.orchestration.prefect_api import serving
from flows.runs import profiles
from flows.scheduling.schedules import load_good
from tasks.config import params_file
from tasks.storage.storage_check import try_storage
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact


def schedules(workspace: Workspace) -> Iterator[Finding]:
    """Whether `fewstep serve` runs where schedules wait for it."""
    good, bad = load_good(workspace)
    for why in bad.values():
        yield Finding("schedules", "error", why, "mend the file, or remove it and create the schedule anew")
    local = [schedule.name for schedule in good if schedule.pool is None]
    if local and not serving(workspace):
        yield Finding("schedules", "warning", f"nothing is serving {', '.join(local)}", "`fewstep serve`")
    elif local:
        yield Finding("schedules", "ok", f"{', '.join(local)}, served")


def storage(workspace: Workspace) -> Iterator[Finding]:
    """Whether the store behind DVC's remote takes what a run will do there. Raises SettingsError where it refuses."""
    try:
        address = try_storage(workspace)
    except NotAvailable as error:
        yield Finding("storage", "warning", f"the DVC remote does not answer: {error}",
                      "runs keep what they make on this disk until it does")
        return
    if address is not None:
        yield Finding("storage", "ok", f"{redact(address)}: one object written, read, replaced and deleted")


def answering(workspace: Workspace) -> Iterator[Finding]:
    """Whether the servers that the environment names answer. Raises SettingsError where the profile lacks one."""
    profiles.check(params_file.load(workspace.params).profile)
    for name, variable in (("Prefect", "PREFECT_API_URL"), ("MLflow", "MLFLOW_TRACKING_URI")):
        address = os.environ.get(variable, "")
        if not address.startswith(("http://", "https://")):
            yield Finding(name, "ok", redact(address) if address else "embedded, SQLite in .fewstep")
        elif answers(address.rstrip("/") + "/health"):
            yield Finding(name, "ok", f"{redact(address)} answers")
        else:
            yield Finding(name, "error", f"{redact(address)} does not answer", f"start the server, or mend {variable}")

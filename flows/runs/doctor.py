"""`fewstep doctor`: what could stop a run, looked at before it does, each finding with how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fewstep.util.errors import FewstepError
from tasks.config import params_file
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact

LITTLE_DISK, NO_DISK = 5 << 30, 1 << 30     # bytes


@dataclass(frozen=True)
class Finding:
    """`level`: ok, warning (works, but) or error (a run would fail)."""

    topic: str
    level: str
    text: str
    mend: str | None = None


def examine(workspace: Workspace, *, servers: bool = True) -> list[Finding]:
    """All findings, in the order in which a person would mend them. Changes nothing."""
    checks: list[Callable[[Workspace], Iterator[Finding]]] = [_python, _versions, _settings, _folders, _disk, _device,
                                                              _git, _dvc, _runs, _schedules]
    if servers:
        checks.append(_servers)
    found = []
    for check in checks:
        try:
            found += check(workspace)
        except FewstepError as error:
            found.append(Finding(check.__name__.strip("_"), "error", str(error), error.hint))
    return found


def _python(workspace: Workspace) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        yield Finding("python", "ok", version)
    else:
        yield Finding("python", "error", f"{version}; 3.11 or 3.12 is needed", "make PYTHON=python3.12 run")


def _versions(workspace: Workspace) -> Iterator[Finding]:
    wanted = _constraints(workspace.root / "constraints.txt")
    missing, other = [], []
    for line in importlib.metadata.requires("fewstep") or []:
        name = _canonical(re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0])
        if "extra ==" not in line and not _installed(name):
            missing.append(name)
    for name, version in wanted.items():
        have = _installed(name)
        if have and have.split("+")[0] != version.split("+")[0]:
            other.append(f"{name} {have} (tested: {version})")
    if missing:
        yield Finding("packages", "error", f"not installed: {', '.join(missing)}", "make environment")
    if _at_least("sqlalchemy", (2, 1)):
        yield Finding("sqlalchemy", "error", f"{_installed('sqlalchemy')}: from 2.1 on Prefect's scheduler cannot "
                      "enter the runs of a schedule into its database", "pip install 'sqlalchemy<2.1'")
    fastapi = _installed("fastapi")
    if _at_least("fastapi", (0, 151)):
        yield Finding("fastapi", "error", f"{fastapi}: from 0.151 on Prefect's server refuses its own client or does "
                      "not start", "pip install 'fastapi<0.151'")
    if other:
        shown = ", ".join(other[:4]) + (f" and {len(other) - 4} more" if len(other) > 4 else "")
        yield Finding("packages", "warning", f"differ from constraints.txt: {shown}",
                      "pip install -c constraints.txt -e '.[dev,server]'")
    elif not missing:
        tested = f"{len(wanted)} packages as tested" if wanted else "no constraints.txt here to compare with"
        yield Finding("packages", "ok" if wanted else "warning", tested)


def _at_least(name: str, version: tuple[int, int]) -> bool:
    have = _installed(name)
    return have is not None and tuple(int(part) for part in re.findall(r"\d+", have)[:2]) >= version


def _constraints(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.split("#")[0].split(";")[0].strip().split("==") for line in lines)
    return {_canonical(pair[0]): pair[1].strip() for pair in pairs if len(pair) == 2}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.split("[")[0]).lower()


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _settings(workspace: Workspace) -> Iterator[Finding]:
    from tasks.config.preflight import validate

    settings = params_file.load(workspace.params)
    validate(workspace.root, settings)
    yield Finding("params.yaml", "ok", f"{settings.name}, profile {settings.profile}, recipe {settings.distill.recipe}")


def _folders(workspace: Workspace) -> Iterator[Finding]:
    devices = {}
    for folder in (workspace.data, workspace.local, workspace.shared):
        present = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=present):
                devices[folder] = os.stat(present).st_dev
        except OSError as error:
            yield Finding("folders", "error", f"cannot write in {folder}: {error.strerror}",
                          f"ls -ld {present}; df -h {present}")
    if len({devices.get(folder) for folder in (workspace.data, workspace.local)}) > 1:
        yield Finding("folders", "error", f"{workspace.data} and {workspace.local} are on different file systems",
                      "put both on one: finished outputs take their place by a rename")
    elif len(devices) == 3 or (workspace.is_main and len(devices) == 2):
        yield Finding("folders", "ok", "data and .fewstep are writable, on one file system")


def _disk(workspace: Workspace) -> Iterator[Finding]:
    free = shutil.disk_usage(workspace.root).free
    level = "ok" if free >= LITTLE_DISK else "warning" if free >= NO_DISK else "error"
    yield Finding("disk", level, f"{free / (1 << 30):.1f} GiB free",
                  None if level == "ok" else "`fewstep clean` and `fewstep gc` free what nothing uses")


def _device(workspace: Workspace) -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:      # a broken installation can raise anything
        yield Finding("device", "error", f"torch does not import: {error}", "make environment")
        return
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        bfloat = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding("device", "ok", f"{names} ({bfloat}), {cores} CPU cores, torch {torch.__version__}")
    else:
        yield Finding("device", "ok", f"{cores} CPU cores, torch {torch.__version__}")


def _git(workspace: Workspace) -> Iterator[Finding]:
    from tasks.storage import git

    commit, dirty = git.head(workspace.root)
    if commit is None:
        yield Finding("git", "error", "no git repository with a commit: lineage, isolated and scheduled runs need one",
                      "git init && git add -A && git commit -m start")
    else:
        yield Finding("git", "ok", f"commit {commit[:10]}" + (", with uncommitted changes" if dirty else ""))


def _dvc(workspace: Workspace) -> Iterator[Finding]:
    from tasks.engine.plan import plan
    from tasks.storage import dvc_repo

    if not (workspace.root / ".dvc" / "config").exists():
        yield Finding("dvc", "error", "no DVC repository here", "dvc init, or restore .dvc from git")
        return
    false = [item.false_record for item in plan(workspace, params_file.load(workspace.params)) if item.false_record]
    for text in false:
        yield Finding("dvc", "warning", text, "`fewstep run` makes the stage anew and records the truth")
    if not dvc_repo.has_remote(workspace):
        yield Finding("dvc", "warning", "no default remote: outputs are on this disk alone",
                      "dvc remote add -d NAME URL")
    elif not false:
        yield Finding("dvc", "ok", "records agree, a default remote is set")


def _runs(workspace: Workspace) -> Iterator[Finding]:
    from tasks.tracking.run_records import KILLED, RunStore

    store = RunStore(workspace)
    dead = [record.id for record in store.all() if record.state == "running" and store.state(record) == KILLED]
    if dead:
        yield Finding("runs", "warning", f"killed and not yet settled: {', '.join(dead[:3])}",
                      f"`fewstep reconcile`, then `fewstep resume {dead[0]}`")
    else:
        yield Finding("runs", "ok", f"{len(store.ids())} recorded")


def _schedules(workspace: Workspace) -> Iterator[Finding]:
    from flows.orchestration.prefect_api import serving
    from flows.orchestration.schedules import load_all

    own = [schedule.name for schedule in load_all(workspace) if schedule.pool is None]
    if own and not serving(workspace):
        yield Finding("schedules", "warning", f"nothing is serving {', '.join(own)}", "`fewstep serve`")
    elif own:
        yield Finding("schedules", "ok", f"{', '.join(own)}, served")


def _servers(workspace: Workspace) -> Iterator[Finding]:
    from flows.orchestration.prefect_api import answers
    from flows.runs import profiles

    settings = params_file.load(workspace.params)
    profiles.check(settings.profile)
    prefect, mlflow = os.environ.get("PREFECT_API_URL"), os.environ.get("MLFLOW_TRACKING_URI")
    for name, address, path in (("Prefect", prefect, "/health"), ("MLflow", mlflow, "/health")):
        if not address or "://" not in address or not address.startswith("http"):
            yield Finding(name, "ok", "embedded, SQLite in .fewstep" if not address else redact(address))
        elif answers(address.rstrip("/") + path):
            yield Finding(name, "ok", f"{redact(address)} answers")
        else:
            variable = "PREFECT_API_URL" if name == "Prefect" else "MLFLOW_TRACKING_URI"
            yield Finding(name, "error", f"{redact(address)} does not answer", f"start the server, or mend {variable}")

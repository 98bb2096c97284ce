"""A project whose stages do nothing worth doing, quickly and without torch; all around them is the real thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tasks.engine import graph
from tests.project import Project, _git

STAGES = [stage.name for stage in graph.STAGES if stage.in_dvc]

STAGE = '''
"""A stage that writes files made of its settings and inputs, in four units of work."""
import hashlib, json, os, time
from pathlib import Path
from fewstep.util.errors import NonFinite

PARALLEL = False
UNITS = ["a", "b", "c", "d"]


def _done(ctx, unit):
    return ctx.scratch / unit


def units(ctx):
    return [unit for unit in UNITS if not _done(ctx, unit).exists()]


def run_unit(ctx, unit):
    from fewstep.util.files import write_atomically

    pause = float(os.environ.get("FAKE_PAUSE_" + ctx.stage, os.environ.get("FAKE_PAUSE", 0)))
    mark = Path(os.environ.get("FAKE_MARKS", ctx.work)) / f"{ctx.stage}-{unit}.started"
    if "FAKE_MARKS" in os.environ:
        mark.parent.mkdir(exist_ok=True)
        with open(mark, "a") as stream:
            stream.write("x")
    time.sleep(pause)
    if os.environ.get("FAKE_FAIL") == f"{ctx.stage}-{unit}":
        raise NonFinite("the loss is NaN", step=3, term="regression", role="student")
    inputs = {name: manifest.digest for name, manifest in ctx.manifests.items()}
    text = json.dumps([ctx.stage, ctx.settings, ctx.seed, inputs, unit], sort_keys=True)
    size = int(os.environ.get("FAKE_BYTES", 2000))
    data = hashlib.sha256(text.encode()).hexdigest().encode() * (size // 64)
    for folder in ctx.inputs.values():
        (folder / "a.bin").read_bytes()
    write_atomically(_done(ctx, unit), data)
    ctx.progress(len(UNITS) - len(units(ctx)), len(UNITS), "units")


def finish(ctx):
    for unit in UNITS:
        (ctx.out / f"{unit}.bin").write_bytes(_done(ctx, unit).read_bytes())
        time.sleep(float(os.environ.get("FAKE_PAUSE_FINISH", 0)))
    if ctx.stage == "evaluate":
        (ctx.out / "metrics.json").write_text(json.dumps({"distance": len(ctx.settings)}))
    return {"samples": len(UNITS)}
'''
FINGERPRINT = '''
"""No torch here."""
import os


def fingerprint():
    return {"machine": os.environ.get("FAKE_MACHINE", "here")}


def versions():
    return {"python": "3"}
'''


class FakeProject(Project):
    """Project with the stage above in place of every stage of dvc.yaml."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        for stage in graph.STAGES:
            if stage.in_dvc:
                (folder / stage.module_file).write_text(STAGE)
                for name in stage.modules:      # a module that is declared and not written yet
                    path = folder / name
                    if not path.exists():
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text("") if name.endswith(".py") else path.mkdir()
        (folder / "tasks" / "engine" / "environment_fingerprint.py").write_text(FINGERPRINT)
        params = (folder / "params.yaml").read_text().replace("{count: ", "{workers: 1, count: ")
        (folder / "params.yaml").write_text(params)
        _git(folder, "add", "-A", "-f", "tasks", "fewstep", "params.yaml")
        _git(folder, "commit", "-qm", "stages that do nothing")

    @classmethod
    def at(cls, folder: Path) -> FakeProject:
        """The project that lies in `folder`."""
        project = cls.__new__(cls)
        project.folder = folder
        return project

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return super().environment(**{"PATH": path, "DVC_NO_ANALYTICS": "1", "SHELL": "/bin/sh", **more})

    def all(self, *stages: str, **environment: str) -> dict[str, str]:
        """Brings every stage (or those named) up to date, one after the other, in one process; the outcome of each."""
        done = self.python(ALL, *stages, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(line.split()[:2] for line in done.stdout.splitlines())

    def python(self, code: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code, *args], cwd=self.folder, env=self.environment(**environment),
                              capture_output=True, text=True, timeout=120)

    def dvc(self, *args: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(Path(sys.executable).with_name("dvc")), *args], cwd=self.folder,
                              env=self.environment(**environment), capture_output=True, text=True, timeout=120)

    def start_python(self, code: str, *args: str, **environment: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, *args], cwd=self.folder, start_new_session=True,
                                env=self.environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True)

    def manifests(self) -> dict[str, bytes]:
        return {stage.name: (self.folder / stage.output / "manifest.json").read_bytes() for stage in graph.STAGES
                if (self.folder / stage.output / "manifest.json").exists()}

    def edit(self, old: str, new: str) -> None:
        path = self.folder / "params.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def wait_for(self, path: Path, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not path.exists():
            assert time.monotonic() < end, f"{path} did not appear"
            time.sleep(0.005)


ALL = '''
import sys
from tasks.engine import graph; from tasks.config import schema as settings
from tasks.storage.locks import workspace_lock
from tasks.engine.events import Observer
from tasks.engine.runner import run_stage
from tasks.storage.workspace import Workspace

class Loud(Observer):
    def stage_warned(self, stage, text):
        print("WARNED", stage, text, file=sys.stderr)

workspace = Workspace.find()
frozen = settings.load(workspace.params)
with workspace_lock(workspace, "the-first-run"):
    for stage in graph.STAGES:
        if stage.in_dvc and (not sys.argv[1:] or stage.name in sys.argv[1:]):
            outcome = run_stage(workspace, stage.name, frozen, observer=Loud())
            print(stage.name, outcome.state, outcome.dvc_refused or "")
'''
PLAN = '''
import json, sys
from tasks.config import schema as settings
from tasks.engine.plan import plan
from tasks.storage.workspace import Workspace

workspace = Workspace.find()
items = plan(workspace, settings.load(workspace.params))
print(json.dumps({"items": [item.to_dict() for item in items if item.stage != "register"],
                  "modules": [name for name in ("torch", "dvc", "prefect", "mlflow", "boto3") if name in sys.modules]}))
'''


def plan(project: FakeProject) -> dict[str, dict]:
    """What would be done to each stage, by name."""
    done = project.python(PLAN)
    assert done.returncode == 0, done.stderr
    return {item["stage"]: item for item in json.loads(done.stdout)["items"]}


def lock(project: FakeProject) -> bytes:
    """Its dvc.lock."""
    return (project.folder / "dvc.lock").read_bytes()

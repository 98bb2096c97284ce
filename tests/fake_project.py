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

STAGES = [stage.name for stage in graph.IN_DVC]

STAGE = '''

# the methods of this stage do nothing worth doing, quickly and without torch

import hashlib
import json
import os
import time
from pathlib import Path

from fewstep.util.config import Strict
from fewstep.util.errors import NonFinite
from fewstep.util.files import write_atomically

UNITS = ["a", "b", "c", "d"]


class Made(Strict):
    samples: int


def _done(context, unit):
    return context.scratch / unit


class Quick:
    def check(self, context):
        pass

    def units(self, context):
        return [unit for unit in UNITS if not _done(context, unit).exists()]

    def run_unit(self, context, unit):
        stage = context.stage
        pause = float(os.environ.get("FAKE_PAUSE_" + stage, os.environ.get("FAKE_PAUSE", 0)))
        mark = Path(os.environ.get("FAKE_MARKS", context.work)) / f"{stage}-{unit}.started"
        if "FAKE_MARKS" in os.environ:
            mark.parent.mkdir(exist_ok=True)
            with open(mark, "a") as stream:
                stream.write("x")
        time.sleep(pause)
        while os.environ.get("FAKE_HOLD") == f"{stage}-{unit}" and not Path(os.environ["FAKE_GO"]).exists():
            time.sleep(0.02)
        if os.environ.get("FAKE_FAIL") == f"{stage}-{unit}":
            raise NonFinite("the loss is NaN", step=3, term="regression", role="student")
        inputs = {name: manifest.digest for name, manifest in context.manifests.items()}
        settings = context.settings.model_dump(mode="json")
        text = json.dumps([stage, settings, context.seed, inputs, unit], sort_keys=True)
        size = int(os.environ.get("FAKE_BYTES", 2000))
        data = hashlib.sha256(text.encode()).hexdigest().encode() * (size // 64)
        for folder in context.inputs.values():
            (folder / "a.bin").read_bytes()
        write_atomically(_done(context, unit), data)
        context.progress(len(UNITS) - len(self.units(context)), len(UNITS), "units")

    def finish(self, context):
        for unit in UNITS:
            (context.out / f"{unit}.bin").write_bytes(_done(context, unit).read_bytes())
            time.sleep(float(os.environ.get("FAKE_PAUSE_FINISH", 0)))
        if context.stage == "evaluate":
            figures = {"distance": len(context.settings.model_dump())}
            (context.out / "metrics.json").write_text(json.dumps(figures))
        return Made(samples=len(UNITS))

    def costs(self, context):
        return {}

    def beside(self, workspace):
        return None

    def parts(self, settings, unit=None):
        return 1


from tasks.engine import stage_code

stage_code.load = lambda code: None     # what these stages compute with is loaded already: no torch
for _name in ("check", "units", "run_unit", "finish", "costs", "beside", "parts"):
    setattr(CLASS, _name, getattr(Quick, _name))
CLASS.parallel = False
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
        for stage in graph.IN_DVC:
            path = folder / f"{type(stage).__module__.replace('.', '/')}.py"
            path.write_text(path.read_text() + STAGE.replace("CLASS", type(stage).__name__))
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
                              capture_output=True, text=True)

    def dvc(self, *args: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run([str(Path(sys.executable).with_name("dvc")), *args], cwd=self.folder,
                              env=self.environment(**environment), capture_output=True, text=True)

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

    def wait_for(self, path: Path) -> None:
        while not path.exists():
            time.sleep(0.005)


ALL = '''
import sys
from tasks.engine import graph; from tasks.config import params_file as settings
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
    for stage in graph.IN_DVC:
        if not sys.argv[1:] or stage.name in sys.argv[1:]:
            outcome = run_stage(workspace, stage.name, frozen, observer=Loud())
            print(stage.name, outcome.state, outcome.dvc_refused or "")
'''
PLAN = '''
import json, sys
from tasks.config import params_file as settings
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

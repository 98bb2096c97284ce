

# Appended to a stage's file in a test's project: the stage then does next to nothing.
#
# The file control.json in the checkout (in the folder SYNTHETIC_FOLDER, where that is set) steers it, by stage:
# `seconds` per unit (also of the one that is under way), `fail` (a message, until the file says otherwise), `raise`
# ("ConnectionError" once per unit), `bug`.

import json
import os
import time
from pathlib import Path

from fewstep.util.config import Strict
from fewstep.util.errors import StageFailed

UNITS = 3


class Made(Strict, extra="allow"):
    """What the stage says of its result."""


def _folder(context):
    return Path(os.environ.get("SYNTHETIC_FOLDER") or context.workspace.shared.parent)


def _control(context):
    path = context.workspace.root / "control.json"
    if not path.exists():
        path = _folder(context) / "control.json"
    return json.loads(path.read_text()).get(context.stage, {}) if path.exists() else {}


class Quick:
    def check(self, context):
        pass

    def units(self, context):
        return [name for name in (f"{number:02d}" for number in range(UNITS)) if not (context.scratch / name).exists()]

    def run_unit(self, context, unit):
        control = _control(context)
        with open(_folder(context) / "journal.txt", "a") as journal:
            journal.write(f"{context.stage} {unit} {os.getpid()}\n")
        begun = time.monotonic()
        while time.monotonic() < begun + _control(context).get("seconds", 0):
            time.sleep(0.02)
            (context.scratch / f"beat-{unit}").write_text(str(time.time()))
        if "fail" in control:
            raise StageFailed(control["fail"], hint="mend control.json")
        if "bug" in control:
            raise ValueError(control["bug"])
        if "raise" in control and not (context.scratch / f"tried-{unit}").exists():
            (context.scratch / f"tried-{unit}").touch()
            raise ConnectionError(control["raise"])
        temporary = context.scratch / f"tmp-{unit}"
        settings = json.dumps(context.settings.model_dump(mode="json"), sort_keys=True)
        temporary.write_text(f"{context.stage} {unit} {context.seed} {settings}")
        temporary.rename(context.scratch / unit)
        number = int(unit) + 1
        context.progress(100 * number, 100 * UNITS, metrics={"loss": 1 / number}, step=100 * number)

    def finish(self, context):
        text = "\n".join((context.scratch / f"{number:02d}").read_text() for number in range(UNITS))
        (context.out / "result.txt").write_text(text)
        if context.stage == "evaluate":
            figures = {"fd_infinite": 1.0, "kid": 0.01, "recall": 0.9, "class_accuracy": 0.95}
            metrics = {"student": {str(steps): figures for steps in context.settings.steps}, "samples": 100,
                       "protocol": "same", "real": figures, "teacher": {"16": figures}, "solver": {"1": figures}}
            (context.out / "metrics.json").write_text(json.dumps(metrics))
        if context.stage == "register":
            return Made(model="fewstep-digits", version=1, weights="w", evaluation="e", made=True, promoted=False,
                        policy="never", reasons=[])
        return Made(samples=100 * UNITS)

    def costs(self, context):
        return {}

    def beside(self, workspace):
        return None

    def parts(self, settings, unit=None):
        return 1


from tasks.engine import stage_code  # noqa: E402

stage_code.load = lambda code: None     # what these stages compute with is loaded already: no torch
for _name in ("check", "units", "run_unit", "finish", "costs", "beside", "parts"):
    setattr(CLASS, _name, getattr(Quick, _name))  # noqa: F821
CLASS.parallel = PARALLEL  # noqa: F821

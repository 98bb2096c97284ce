"""A stage that does next to nothing, to test the machinery around stages: copied over a project's tasks/<stage>.py.

The file control.json in the checkout steers it, by stage: `seconds` per unit, `fail` (a message, until the file says
otherwise), `raise` ("ConnectionError" once per unit), `corrupt`, `nan`.
"""

import json
import os
import time

PARALLEL = True
UNITS = 3


def _control(ctx):
    path = ctx.workspace.root / "control.json"
    if not path.exists():
        path = ctx.workspace.shared.parent / "control.json"
    return json.loads(path.read_text()).get(ctx.stage, {}) if path.exists() else {}


def units(ctx):
    return [name for name in (f"{number:02d}" for number in range(UNITS)) if not (ctx.scratch / name).exists()]


def run_unit(ctx, unit):
    control = _control(ctx)
    with open(ctx.workspace.shared.parent / "journal.txt", "a") as journal:
        journal.write(f"{ctx.stage} {unit} {os.getpid()}\n")
    end = time.monotonic() + control.get("seconds", 0)
    beats = 0
    while time.monotonic() < end:
        time.sleep(0.02)
        beats += 1
        (ctx.scratch / f"beat-{unit}").write_text(str(time.time()))
    if "fail" in control:
        from fewstep.util.errors import StageFailed

        raise StageFailed(control["fail"], hint="mend control.json")
    if "bug" in control:
        raise ValueError(control["bug"])
    if "raise" in control and not (ctx.scratch / f"tried-{unit}").exists():
        (ctx.scratch / f"tried-{unit}").touch()
        raise ConnectionError(control["raise"])
    temporary = ctx.scratch / f"tmp-{unit}"
    temporary.write_text(f"{ctx.stage} {unit} {ctx.seed} {json.dumps(ctx.settings, sort_keys=True)}")
    temporary.rename(ctx.scratch / unit)
    number = int(unit) + 1
    ctx.progress(100 * number, 100 * UNITS, metrics={"loss": 1 / number}, step=100 * number)


def finish(ctx):
    text = "\n".join((ctx.scratch / f"{number:02d}").read_text() for number in range(UNITS))
    (ctx.out / "result.txt").write_text(text)
    if ctx.stage == "evaluate":
        figures = {"fd_infinite": 1.0, "kid": 0.01, "recall": 0.9, "class_accuracy": 0.95}
        metrics = {"student": {str(steps): figures for steps in ctx.settings["steps"]}, "samples": 100,
                   "protocol": "same", "real": figures, "teacher": {"16": figures}, "solver": {"1": figures}}
        (ctx.out / "metrics.json").write_text(json.dumps(metrics))
    if ctx.stage == "register":
        return {"model": "fewstep-digits", "version": 1, "weights": "w", "evaluation": "e", "made": True,
                "promoted": False, "policy": "never", "reasons": []}
    return {"samples": 100 * UNITS}

"""`fewstep stage run NAME`: one stage, without Prefect. What dvc.yaml calls."""

from __future__ import annotations

import sys
import time

import typer

from flows.executors.engines import Engines
from flows.output import count, duration, emit, examples
from flows.telemetry import json_log
from flows.telemetry.log_view import LogView
from tasks.config import params_file
from tasks.config.preflight import validate
from tasks.engine import graph
from tasks.engine.events import Observer
from tasks.engine.runner import run_stage, under_dvc
from tasks.storage.locks import die_with_dvc, workspace_lock
from tasks.storage.workspace import Workspace

LINE_SECONDS = 5.0      # between two lines of progress


class Lines(Observer):
    """Progress of one stage as lines on stderr."""

    def __init__(self):
        self.printed = 0.0
        self.first: tuple[float, int] | None = None

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        now = time.monotonic()
        self.first = self.first or (now, done)
        if now - self.printed < LINE_SECONDS and done < total:
            return
        self.printed = now
        seconds, made = now - self.first[0], done - self.first[1]
        left = f", {duration(seconds * (total - done) / made)} left" if made and done < total else ""
        print(f"{stage}: {count(done)} of {count(total)} {unit}{left}", file=sys.stderr, flush=True)

    def stage_warned(self, stage, text):
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def stage_noted(self, stage, text):
        print(f"{stage}: {text}", file=sys.stderr, flush=True)


def add(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    stages = typer.Typer(help="Single stages, without Prefect: what dvc.yaml calls.", no_args_is_help=True)

    @stages.command("run", epilog=examples("fewstep stage run shard", "dvc repro distill"))
    def run(name: str = typer.Argument(help="Name of the stage, as in dvc.yaml."),
            as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON.")) -> None:
        """Bring one stage up to date from params.yaml and the outputs of the stages before it."""
        if under_dvc():     # without this an orphan of a killed `dvc repro` would write beside the next one
            die_with_dvc()
        workspace = Workspace.find()
        graph.stage(name)
        settings = params_file.load(workspace.params)
        validate(workspace.root, settings)
        observer = LogView() if json_log.asked() else Lines()
        with workspace_lock(workspace, f"stage {name}"), Engines(settings) as engines:
            outcome = run_stage(workspace, name, settings, observer=observer, execute=engines.execute,
                                nodes=engines.nodes(workspace))
        answer = {"stage": name, "state": outcome.state, "key": outcome.manifest.key, "digest": outcome.manifest.digest,
                  "seconds": round(outcome.seconds, 3), "summary": outcome.manifest.summary,
                  "dvc_refused": outcome.dvc_refused}
        took = duration(outcome.seconds)
        words = {"current": "is up to date", "restored": f"was put back from DVC's cache in {took}",
                 "made": f"was made in {took}"}
        emit(answer, as_json, lambda out: out.print(f"{name} {words[outcome.state]}"))

    app.add_typer(stages, name="stage")

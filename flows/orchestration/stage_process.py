"""A stage of a run in a process of its own, beside the one that the run's process does.

`python -m flows.orchestration.stage_process RUN STAGE PROCESSES` brings the stage up to date. Each line of its output
is a call of an `Observer`, `[name, arguments]`; whatever else is printed goes to the run's log. SIGTERM ends it as
Ctrl-C ends a run: what it finished is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewstep.util.errors import FewstepError, StageFailed, from_json, to_json
from flows.executors.engines import Engines
from flows.executors.left_over import LeftOver
from flows.executors.transient_errors import is_transient
from flows.runs.new_run import settings_of
from flows.runs.signals import EXIT_CODE, interruptible
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.events import Observer, Outcome
from tasks.engine.group.ranks import how_it_ended
from tasks.engine.runner import run_stage
from tasks.storage.locks import die_with_parent
from tasks.storage.workspace import Workspace, child_environment
from tasks.tracking.log_place import process_works_on, working_on
from tasks.tracking.redacted_logs import redact_logs_and_tracebacks
from tasks.tracking.redaction import redact
from tasks.tracking.run_records import RunStore


class Passing(ConnectionError):
    """What a stage met in its process that a further try may not meet."""


class StageProcesses:
    """Processes that do stages, one at a time.

    Args:
        workspace, run: the checkout and the id of the run that works in it.
        left: what of the machine they have.
        log: file for what they print.
    """

    def __init__(self, workspace: Workspace, run: str, left: LeftOver, log: Path):
        self._workspace, self._run, self._left, self._log = workspace, run, left, log
        self._child: subprocess.Popen | None = None
        self._told = threading.Event()

    def stage(self, name: str, observer: Observer) -> Outcome:
        """Bring the stage up to date; what its process tells is told to `observer`. Raises what the stage raises."""
        with open(self._log, "ab") as log:
            before = log.tell()
            # a process group of its own: Ctrl-C in the terminal is for the run, which passes it on
            self._child = subprocess.Popen(
                [sys.executable, "-m", "flows.orchestration.stage_process", self._run, name,
                 str(self._left.processes or "")],
                env=child_environment(os.environ, FEWSTEP_PARENT=str(os.getpid()), **self._left.environment),
                cwd=self._workspace.root, process_group=0, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log)  # fmt: skip
        if self._told.is_set():
            self._child.terminate()
        heard = _Heard(self._workspace, name, observer)
        try:
            for line in self._child.stdout:
                heard.take(*json.loads(line))
        except BaseException:
            self._child.terminate()
            raise
        finally:
            code = self._child.wait()
            self._child.stdout.close()
        if heard.outcome is None and heard.error is None:
            with open(self._log, "rb") as log:
                log.seek(before)
                heard.end_without_a_word(how_it_ended(code, log.read()))
        if heard.error is not None:
            raise heard.error
        return heard.outcome

    def stop(self) -> None:
        """Have the stage that is under way end, and any that begins."""
        self._told.set()
        if self._child is not None:
            self._child.terminate()


class _Heard:
    """Takes in what a stage's process tells: calls the observer, and knows how the stage ended."""

    def __init__(self, workspace: Workspace, stage: str, observer: Observer):
        self.workspace, self.name, self.observer = workspace, stage, observer
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self._open = False      # the stage was begun, and its end is not told

    def take(self, call: str, given: list[Any]) -> None:
        self._open = call == "stage_started" or (self._open and call not in _ENDS)
        match call, given:
            case "stage_finished", [state, seconds, refused, cost]:
                manifest = manifests.load(self.workspace.root / graph.stage(self.name).output)
                self.outcome = Outcome(state, manifest, seconds, refused)
                self.observer.stage_finished(self.name, self.outcome, cost)
            case "stage_failed", [kind, text]:
                self.error = from_json(text) if kind == "known" else Passing(text)
                self.observer.stage_failed(self.name, self.error)
            case "stage_interrupted", _:
                self.error = StageFailed(f"stage '{self.name}' was stopped")
                self.observer.stage_interrupted(self.name)
            case "stage_aside", [folder]:
                try:
                    self.observer.stage_aside(self.name, Path(folder))
                except FewstepError as error:   # no failure: the output is valid without it
                    self.observer.stage_warned(self.name, f"the report is here, and not kept everywhere: {error}")
            case "unit_finished" | "rank_finished", [*told, text]:
                error = None if text is None else StageFailed(text)
                getattr(self.observer, call)(self.name, *told, error)
            case _:
                getattr(self.observer, call)(self.name, *given)

    def end_without_a_word(self, how: str) -> None:
        """The process has ended, and the stage has not."""
        self.error = StageFailed(f"the process of stage '{self.name}' {how}",
                                 hint="what it finished is kept; the next start goes on from there")
        if self._open:
            self.observer.stage_failed(self.name, self.error)


_ENDS = ("stage_finished", "stage_failed", "stage_interrupted")
Tell = Callable[[str, list[Any]], None]


class _Told(Observer):
    """Passes on what a stage tells, from whichever thread."""

    def __init__(self, tell: Tell):
        self._tell = tell

    def stage_started(self, stage, key):
        self._tell("stage_started", [key])

    def stage_progress(self, stage, done, total, unit="images", metrics=None, step=None):
        self._tell("stage_progress", [done, total, unit, metrics, step])

    def stage_warned(self, stage, text):
        self._tell("stage_warned", [text])

    def stage_noted(self, stage, text):
        self._tell("stage_noted", [text])

    def unit_finished(self, stage, unit, began, ended, error):
        self._tell("unit_finished", [unit, began, ended, error and _in_words(error)])

    def rank_finished(self, stage, unit, rank, place, began, ended, error):
        self._tell("rank_finished", [unit, rank, place, began, ended, error and _in_words(error)])

    def stage_aside(self, stage, folder):
        self._tell("stage_aside", [str(folder)])

    def stage_finished(self, stage, outcome, cost):
        self._tell("stage_finished", [outcome.state, outcome.seconds, outcome.dvc_refused, cost])

    def stage_failed(self, stage, error):
        if is_transient(error):
            self._tell("stage_failed", ["passing", _in_words(error)])
            return
        if not isinstance(error, FewstepError):
            traceback.print_exception(error)
            error = StageFailed(f"stage '{stage}' failed: {type(error).__name__}: {error}")
        self._tell("stage_failed", ["known", redact(to_json(error))])

    def stage_interrupted(self, stage):
        self._tell("stage_interrupted", [])


def _in_words(error: BaseException) -> str:
    return redact(f"{type(error).__name__}: {error}")


def main() -> None:
    """The process of one stage."""
    redact_logs_and_tracebacks()
    die_with_parent(int(os.environ.pop("FEWSTEP_PARENT")))
    run, name, processes = sys.argv[1:]
    calls = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(call: str, given: list[Any]) -> None:
        with lock:
            calls.write(json.dumps([call, given]) + "\n")
            calls.flush()

    workspace = Workspace.find()
    settings = settings_of(RunStore(workspace).load(run))
    compute = settings.compute.model_copy(update={"processes": int(processes) if processes else None})
    settings = settings.model_copy(update={"compute": compute})
    process_works_on(run)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Engines(settings) as engines, interruptible(lambda: None, lambda: None), working_on(stage=name):
        try:
            run_stage(workspace, name, settings, observer=_Told(tell), execute=engines.execute,
                      nodes=engines.nodes(workspace), run=run)
        except Exception:       # it has been told
            sys.exit(1)
        except KeyboardInterrupt:
            with contextlib.suppress(BrokenPipeError):
                calls.close()
            os._exit(EXIT_CODE)


if __name__ == "__main__":
    main()

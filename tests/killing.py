"""Commands of a test's project that die at an event of the run, whatever the machine's pace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from tests.project import ROOT, Project


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Attributes:
        code: its exit code; minus the signal's number for a killed one.
        events: how many there were, by stage; empty for a killed one.
        output: what it wrote to stdout and stderr.
    """

    code: int
    events: dict[str, int]
    output: str


class Commands:
    """Runs commands in a project, each in a process group of its own. Ended by `close`, or with the test's process."""

    def __init__(self, project: Project, **environment: str):
        self.project = project
        self._log = project.folder.with_name(f"{project.folder.name}-commands.log")
        self._counts = project.folder.with_name(f"{project.folder.name}-events.json")
        settings = project.environment(**environment)
        settings["PYTHONPATH"] += f"{os.pathsep}{ROOT}"     # for this folder of tests: the rest is the project's own
        with open(project.folder.with_name(f"{project.folder.name}-server.log"), "wb") as log:
            self._server = subprocess.Popen([sys.executable, "-m", "tests.kill_server"], cwd=project.folder, text=True,
                                            env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def run(self, *arguments: str, fatal: tuple[str, int] | None = None, **environment: str) -> Done:
        """`fewstep *arguments` to its end, or until the stage `fatal[0]` is about to do its event number `fatal[1]`."""
        for path in (self._log, self._counts):
            path.unlink(missing_ok=True)
        order = {"arguments": arguments, "fatal": dict([fatal] if fatal else []), "environment": environment,
                 "log": str(self._log), "counts": str(self._counts)}  # fmt: skip
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        events = json.loads(self._counts.read_text()) if self._counts.exists() else {}
        return Done(code, events, self._log.read_text())

    def check(self, *arguments: str, **environment: str) -> Done:
        """The same for a command that must succeed."""
        done = self.run(*arguments, **environment)
        assert done.code == 0, f"fewstep {' '.join(arguments)}: exit {done.code}\n{done.output}"
        return done

    def dies(self, *arguments: str, fatal: tuple[str, int]) -> bool:
        """Whether the command dies before that event; one that does not meet it must succeed."""
        done = self.run(*arguments, fatal=fatal)
        assert done.code in (0, -signal.SIGKILL), done.output
        return done.code != 0

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


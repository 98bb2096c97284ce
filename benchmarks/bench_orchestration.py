"""What Prefect, DVC and MLflow add to a run, and how long `fewstep run` takes to see that nothing is to do."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import measure
from tests.project import TINY, Project

BARE = """
import tasks.tracking.process_env
from tasks.config import params_file
from tasks.engine import graph
from tasks.engine.runner import run_stage
from tasks.storage.workspace import Workspace
workspace = Workspace.find()
chosen = params_file.load(workspace.params)
for stage in graph.IN_DVC:
    run_stage(workspace, stage.name, chosen, dvc=False)
"""
ADDED, NOTHING = 30.0, 5.0      # seconds that the two may take at most


def bare(project: Project) -> None:
    """All stages in one process: no flow, no DVC, no MLflow, no registration."""
    subprocess.run([sys.executable, "-c", BARE], cwd=project.folder, env=project.environment(), check=True,
                   capture_output=True)


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    options = measure.parser(__doc__.splitlines()[0]).parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        alone, whole = Project(Path(folder, "alone"), TINY), Project(Path(folder, "whole"), TINY)
        seconds = {"stages alone": measure.seconds_of(lambda: bare(alone)),
                   "fewstep run": measure.seconds_of(lambda: whole.check("run"))}
        nothing = [measure.seconds_of(lambda: whole.check("run")) for _ in range(options.rounds)]
    added = seconds["fewstep run"] - seconds["stages alone"]
    idle = statistics.median(nothing)
    rows = [("Prefect, DVC, MLflow and registration add", added, ADDED), ("a run with nothing to do", idle, NOTHING)]
    lines = ["### Orchestration (tiny settings)", "", "| what | seconds | goal |", "|---|---:|---|"]
    lines += [f"| {name} | {value:.1f} | < {limit:g}: {'met' if value < limit else 'missed'} |"
              for name, value, limit in rows]
    figures = {**seconds, "added": added, "nothing_to_do": nothing}
    measure.publish(options, "\n".join(lines) + "\n", figures)
    return figures


if __name__ == "__main__":
    main()

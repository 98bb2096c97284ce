"""Runs commands of the checkout that it is started in, each in a fork of one process that has loaded the libraries, and
kills one before an event of a stage. Reads a JSON line per command, answers with its exit code (`tests.killing`)."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import accelerate  # noqa: F401  (what takes seconds to load is loaded once, not in each fork)
import boto3  # noqa: F401
import diffusers.models.unets.unet_2d
import diffusers.pipelines.pipeline_utils
import diffusers.schedulers.scheduling_consistency_models
import diffusers.schedulers.scheduling_ddim
import diffusers.schedulers.scheduling_dpmsolver_multistep  # noqa: F401
import dulwich.client  # noqa: F401
import dvc.data_cloud
import dvc.repo.metrics
import dvc.repo.params
import dvc.repo.plots
import dvc.repo.stage
import dvc.rwlock
import dvc.scm  # noqa: F401
import dvc_data.hashfile.status  # noqa: F401
import scipy.linalg  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch.utils.data

from flows.cli import main
from tasks.engine.runner import StageRun
from tests.file_events import FileEvents

BESIDES = tuple(f".fewstep/{name}" for name in ("prefect", "logs", "locks"))     # servers write there as time passes


def watch(fatal: dict[str, int]) -> Counter[str]:
    """Counts, from here on, the events of each stage while this process brings it up to date."""
    events, counts, bring = FileEvents(os.getcwd(), besides=BESIDES), Counter(), StageRun.bring_up_to_date
    events.watching = False

    def bring_up_to_date(run: StageRun):
        name = run.stage.name
        events.count, events.fatal, events.watching = 0, fatal.get(name), True
        try:
            return bring(run)
        finally:
            events.watching = False
            counts[name] += events.count

    StageRun.bring_up_to_date = bring_up_to_date
    return counts


def run(order: dict) -> None:
    """In the fork: the command, as the console script runs it."""
    os.setsid()
    with open(order["log"], "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    os.environ.update(order["environment"])
    counts = watch(order["fatal"])
    try:
        main(order["arguments"])
    finally:
        Path(order["counts"]).write_text(json.dumps(counts))


def serve() -> None:
    torch.set_num_threads(1)    # a fork has no threads but its own
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


if __name__ == "__main__":
    serve()

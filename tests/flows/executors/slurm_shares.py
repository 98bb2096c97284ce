"""What a batch job of Slurm starts as its steps, and what Slurm gives each: printed as JSON. Units first, as many as
there is room for; then, on the other node, the process of a training."""

import json
import os
import time

import psutil

from flows.executors.processes import by_slurm
from tasks.config.schema import Compute, UnitResources
from tasks.engine.group.nodes import LaunchedNodes
from tests.living import with_word


def given(count: int, running) -> list[list[str]]:
    """Node, CPUs and GPUs of each of `count` steps that run at once."""
    while True:
        found = [process for process in with_word("tasks.unit", psutil.process_iter())
                 if "slurmstepd" in process.parent().name()]  # fmt: skip
        if len(found) == count:
            break
        running()
        time.sleep(0.1)
    have = [process.environ() for process in found]
    return sorted([one["SLURMD_NODENAME"], one["SLURM_CPUS_ON_NODE"], one.get("SLURM_GPUS_ON_NODE", "0")]
                  for one in have)  # fmt: skip


engine = by_slurm(None, UnitResources(gpus=json.loads(os.environ["UNIT_GPUS"])))
units = [engine.start(place) for place in range(engine.width)]


def alive() -> None:
    assert all(unit.alive for unit in units)


said = {"units": given(engine.width, alive)}
(link,) = LaunchedNodes(Compute(on="slurm", nodes=2)).start(2)
told = given(engine.width + 1, link.heard)
for one in said["units"]:
    told.remove(one)
said["training"] = told
link.end()
for unit in units:
    unit.end()
print(json.dumps(said))

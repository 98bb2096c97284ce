"""What a run would take of the machine that it is begun on, for `fewstep run --dry-run`."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from fewstep.util.host_memory import free_memory
from tasks.config.chosen_recipe import chosen_recipe
from tasks.config.outside import with_recipe_below
from tasks.config.schema import Settings
from tasks.engine.shared_unit import layout
from tasks.estimate.estimate import estimate
from tasks.estimate.run_estimate import RunEstimate


def estimate_here(root: Path, settings: Settings) -> RunEstimate:
    """The estimate for each of the GPUs that the run would have here, against its memory; without any, for the CPU
    against what is free of its memory now. Raises SettingsError as `estimate` does."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return estimate(root, settings, "cpu", free_memory())
    parts = chosen_recipe(with_recipe_below(settings, root).distill).training.parts
    devices = math.prod(layout(parts, settings.compute.nodes, settings.compute.processes or gpus))
    return estimate(root, settings, "gpu", torch.cuda.get_device_properties(0).total_memory, devices)

"""What a recipe takes of memory on one of these networks, told from shallow forms of it."""

from __future__ import annotations

from benchmarks.memory.models import Model
from fewstep.recipes import Recipe
from fewstep.training.memory import RoundMemory
from fewstep.training.rehearsal.rounds import Machine, rehearse

KINDS = ("weights", "gradients", "moments", "average", "activations", "other")


def largest_round(model: Model, recipe: Recipe, machine: Machine, sharded: bool = False) -> dict[str, int]:
    """Bytes by kind, and apart, of the round that takes most; `sharded`: on each of the machine's devices, which hold
    rows of every network.

    Raises SettingsError for a recipe that the network cannot serve.
    """
    found = [[_held(one, sharded) for one in rehearse(recipe, model.denoiser(blocks), machine)] for blocks in (1, 2)]
    rounds = [{kind: _deep(one[kind], two[kind], model.depth) for kind in one} for one, two in zip(*found, strict=True)]
    return max(rounds, key=lambda own: sum(own[kind] for kind in KINDS))


def _held(one: RoundMemory, sharded: bool) -> dict[str, int]:
    held = one.shards if sharded and one.shards is not None else one
    return {**held.kinds, "apart": held.apart}


def _deep(one: int, two: int, depth: int) -> int:
    """Bytes for `depth` blocks, of those for one and for two."""
    return one + (depth - 1) * (two - one)

"""What test_distributed.py has each process of a group do: started with folder, rank, size and meeting point."""

import json
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed

from fewstep.conformance.problems import Problem
from fewstep.networks.sharded import here, is_sharded, rows_of, whole
from fewstep.recipes import Overrides, Recipe, load_recipe, parse_recipe, recipe_names
from fewstep.training import Distillation, RunOptions
from fewstep.training import distributed as groups
from fewstep.training.loss_meter import Figures
from fewstep.training.roles import fit_network
from fewstep.training.round_trainer import RoundTrainer
from fewstep.training.step.batches import ExactData
from fewstep.trajectories import TrajectorySettings
from fewstep.util.errors import SettingsError
from tests.fewstep.training.small import BATCH as SMALL_BATCH
from tests.fewstep.training.small import finish, tiny
from tests.fewstep.training.small import run as small_run

BATCH = 8
FORWARD = "-by-forward-differentiation"
NAMES = [*recipe_names(), *(f"{name}{FORWARD}" for name in ("scm", "meanflow"))]
"""The recipes, and two whose derivative is taken exactly instead of by differences."""


def recipe_of(name: str) -> Recipe:
    """The recipe of this name, with every `difference` 0 where the name says so."""
    recipe = load_recipe(name.removesuffix(FORWARD))
    if not name.endswith(FORWARD):
        return recipe
    data = recipe.model_dump(mode="json")
    for term in data["rounds"][0]["terms"]:
        assert term["difference"]
        term["difference"] = 0.0
    return parse_recipe(data, name)


SHARDED = ["dmd2", "ladd", "lcm-lora", "disback", f"meanflow{FORWARD}", "twinflow"]
"""Adversarial features through sharded networks, adapters, recorded teachers, forward derivatives, second times."""


def distillation(name: str, folder: Path, seed: int = 0, shards: bool = False, **overrides) -> Distillation:
    """A run of a few batches on the ring, with a stand-in that is hardly fitted."""
    recipe = recipe_of(name).override(Overrides(batch=BATCH, parts=2, **overrides))
    fit_network.fit.__defaults__ = ("cpu", 2)
    teacher = Problem("ring").teacher()
    sets = TrajectorySettings(count=16, steps=2, record_size=8)
    options = RunOptions(images=BATCH, seed=seed, folder=folder, shards=shards)
    return Distillation(recipe, teacher, options, data=ExactData(teacher), trajectories=sets)


def gradients(name: str, folder: Path, shards: bool = False) -> dict[str, torch.Tensor]:
    """Of one turn of every role at the start of every round and, from other weights, late in it: some parts of an
    objective come in then, and some vanish where a network is still what it began as. By round, when, role, parameter.
    """
    job, found = distillation(name, folder / name, shards=shards, precision="float64"), {}
    for index in range(len(job.recipe.rounds)):
        trainer, _ = job.trainer(index)
        turns = len(trainer.cycle)
        trainer.steps = 4 * turns  # of which a few are taken: only a step's share of the round matters
        for when, first in (("start", 0), ("late", 3 * turns)):
            if when == "late":
                disturb(trainer)
            for role in trainer.round.turns:
                own = turn(trainer, first + trainer.cycle.index(role), role)
                found |= {f"{index}/{when}/{role}/{name}": gradient for name, gradient in own.items()}
    return found


@torch.no_grad()
def disturb(trainer: RoundTrainer) -> None:
    """Moves every trained weight a little, the same in every process."""
    source = torch.Generator().manual_seed(0)
    for optimiser in trainer.state.optimisers.values():
        for parameter, own in zip(optimiser.parameters, optimiser.stepped, strict=True):
            noise = 0.02 * torch.randn(parameter.shape, generator=source, dtype=parameter.dtype)
            own += rows_of(noise, trainer.world.rank, trainer.world.size) if is_sharded(parameter) else noise


def turn(trainer: RoundTrainer, step: int, role: str) -> dict[str, torch.Tensor]:
    """Gradients by parameter of one turn, which leaves the weights as they are."""
    for other, optimiser in trainer.state.optimisers.items():
        optimiser.train(other == role)
    own = trainer.state.optimisers[role]
    own.step = lambda progress, norm: None
    trainer._step(step, role, Figures(trainer.where))
    found = {name: whole(p.grad, there).clone()
             for name, p, there in zip(own.names, own.stepped, own.parameters, strict=True) if p.grad is not None}
    own.optimiser.zero_grad()
    return found


def run(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of dmd2's student at the end of a run in `folder`, which is read where it is finished."""
    job = distillation("dmd2", folder, seed, precision="float32")
    return job.student_after(0).denoiser.state_dict()


def saving(folder: Path, shards: bool) -> Distillation:
    """A run of adapters that saves memory in every way, on a network of images."""
    recipe = tiny("lcm-lora", parts=2, precision="bfloat16", frozen="bfloat16")
    return small_run(recipe, folder, 6 * SMALL_BATCH, shards=shards, averages_apart=True, gradient_checkpointing=True)


def held(folder: Path) -> dict[str, dict[str, int]]:
    """Bytes that this process holds of each role's weights, moments and average, in shards."""
    trainer, _ = small_run(tiny("dmd2", parts=2), folder, shards=True).trainer(0)
    for optimiser in trainer.state.optimisers.values():
        optimiser.begin()
    roles, seen = {}, set()
    for role in sorted(trainer.state.networks, key=lambda role: (role != "teacher", role != "student", role)):
        optimiser = trainer.state.optimisers.get(role)
        modules = [trainer.state.networks[role], *(optimiser.modules.values() if optimiser else ())]
        weights = {id(p): here(p) for module in modules for p in (*module.parameters(), *module.buffers())}
        roles[role] = {"weights": sum(size(value) for key, value in weights.items() if key not in seen),
                       "moments": sum(map(size, optimiser.state().values())) if optimiser else 0,
                       "average": sum(map(size, trainer.state.average.weights.values())) if role == "student" else 0}
        seen |= weights.keys()
    return roles


def size(tensor: torch.Tensor) -> int:
    """Bytes."""
    return tensor.numel() * tensor.element_size()


def keep_gradients(names: Sequence[str], folder: Path, rank: int, shards: bool) -> None:
    """Those of each recipe, or how it failed, in a file of its own."""
    for name in names:
        kind = f"{name}-sharded" if shards else name
        try:
            save_file(gradients(name, folder / "gradients", shards), folder / f"{kind}-{rank}.safetensors")
        except Exception:  # told by that recipe's own test
            (folder / f"{kind}-{rank}.failed").write_text(traceback.format_exc())


def main(folder: Path, rank: int) -> None:
    """All that is asked of several processes, in one start: it costs more than the work."""
    keep_gradients(NAMES, folder, rank, shards=False)
    keep_gradients(SHARDED, folder, rank, shards=True)
    save_file(finish(saving(folder / "saving", shards=True)), folder / f"saving-{rank}.safetensors")
    (folder / f"held-{rank}.json").write_text(json.dumps(held(folder / "held")))
    save_file(run(folder / "run"), folder / f"student-{rank}.safetensors")
    try:
        run(folder / "differ", seed=rank)
    except SettingsError as error:
        (folder / f"refused-{rank}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    groups.BUCKET = 2000        # numbers: gradients of these networks go in several
    folder, rank, count, meeting, *every = sys.argv[1:]
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(count),
                                   timeout=timedelta(seconds=120))  # fmt: skip
    if every:
        keep_gradients(NAMES, Path(folder), int(rank), shards=True)
    else:
        main(Path(folder), int(rank))

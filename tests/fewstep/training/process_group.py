"""What test_distributed.py has each process of a group do: started with folder, rank, size and meeting point."""

import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import distributed

from fewstep.conformance.problems import Problem
from fewstep.recipes import Overrides, Recipe, load_recipe, parse_recipe, recipe_names
from fewstep.training import Distillation, RunOptions
from fewstep.training.loss_meter import Figures
from fewstep.training.roles import fit_network
from fewstep.training.round_trainer import RoundTrainer
from fewstep.training.step.batches import ExactData
from fewstep.trajectories import TrajectorySettings
from fewstep.util.errors import SettingsError

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


def distillation(name: str, folder: Path, seed: int = 0, **overrides) -> Distillation:
    """A run of a few batches on the ring, with a stand-in that is hardly fitted."""
    recipe = recipe_of(name).override(Overrides(batch=BATCH, parts=2, **overrides))
    fit_network.fit.__defaults__ = ("cpu", 2)
    teacher = Problem("ring").teacher()
    sets = TrajectorySettings(count=16, steps=2, record_size=8)
    options = RunOptions(images=BATCH, seed=seed, folder=folder)
    return Distillation(recipe, teacher, options, data=ExactData(teacher), trajectories=sets)


def gradients(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Of one turn of every role at the start of every round and, from other weights, late in it: some parts of an
    objective come in then, and some vanish where a network is still what it began as. By round, when, role, parameter.
    """
    job, found = distillation(name, folder / name, precision="float64"), {}
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
        for parameter in optimiser.parameters:
            parameter += 0.02 * torch.randn(parameter.shape, generator=source, dtype=parameter.dtype)


def turn(trainer: RoundTrainer, step: int, role: str) -> dict[str, torch.Tensor]:
    """Gradients by parameter of one turn, which leaves the weights as they are."""
    for other, optimiser in trainer.state.optimisers.items():
        optimiser.train(other == role)
    own = trainer.state.optimisers[role]
    own.step = lambda progress, norm: None
    trainer._step(step, role, Figures(trainer.where))
    found = {name: p.grad.clone() for name, p in zip(own.names, own.parameters, strict=True) if p.grad is not None}
    own.optimiser.zero_grad()
    return found


def run(folder: Path, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of dmd2's student at the end of a run in `folder`, which is read where it is finished."""
    job = distillation("dmd2", folder, seed, precision="float32")
    return job.student_after(0).denoiser.state_dict()


def main(folder: Path, rank: int) -> None:
    """All that is asked of several processes, in one start: it costs more than the work."""
    for name in NAMES:
        try:
            save_file(gradients(name, folder / "gradients"), folder / f"{name}-{rank}.safetensors")
        except Exception:  # told by that recipe's own test
            (folder / f"{name}-{rank}.failed").write_text(traceback.format_exc())
    save_file(run(folder / "run"), folder / f"student-{rank}.safetensors")
    try:
        run(folder / "differ", seed=rank)
    except SettingsError as error:
        (folder / f"refused-{rank}").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank, size, meeting = sys.argv[1:]
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(size),
                                   timeout=timedelta(seconds=120))  # fmt: skip
    main(Path(folder), int(rank))

"""A tiny teacher network, data and pairs, and a run of any recipe over them that takes a second or two."""

import sys
from pathlib import Path

import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.recipes import Overrides, Recipe, load_recipe
from fewstep.teachers import new_unet
from fewstep.training import Distillation, RoundTrainer, RunOptions, TensorData
from fewstep.trajectories import TrajectorySettings

BATCH = 8
RECIPES = ["kd", "reflow", "ect", "dmd2", "ladd", "nitrofusion", "cd", "tcm", "progressive", "disback", "msd",
           "sdxl-lightning"]  # fmt: skip


def teacher(seed: int = 0) -> Denoiser:
    """A conditional 8 x 8 network with random weights."""
    network = new_unet(8, 1, 3, (8,), 1, generator=torch.Generator().manual_seed(seed))
    return Denoiser(network, VariancePreserving.cosine(), "v_prediction", (1, 8, 8), 3, 3)


def data(value: float = 0.0) -> TensorData:
    """40 labelled images."""
    source = torch.Generator().manual_seed(1)
    return TensorData(torch.randn(40, 1, 8, 8, generator=source) + value, torch.arange(40) % 3)


class Pairs:
    """Made-up pairs; `spoil` puts a NaN into the batch at this position."""

    def __init__(self, spoil: int | None = None):
        self.spoil = spoil

    def batch(self, seed, position, size):
        source = torch.Generator().manual_seed(seed * 1000 + position)
        noise = torch.randn(size, 1, 8, 8, generator=source)
        x = noise * 0.5
        if position == self.spoil:
            x[0, 0, 0, 0] = float("nan")
        condition = torch.randint(3, (size,), generator=source)
        states = torch.stack([noise, 0.75 * noise], 1)
        return {"noise": noise, "x": x, "condition": condition, "states": states, "times": torch.tensor([1.0, 0.5])}


def tiny(name: str, **overrides) -> Recipe:
    return load_recipe(name).override(Overrides(batch=BATCH, **overrides))


def run(recipe: Recipe, folder: Path, images: int = 24 * BATCH, **kwargs) -> Distillation:
    """A run with checkpoints every six batches."""
    sources = {"data": kwargs.pop("data", data()), "pairs": kwargs.pop("pairs", Pairs())}
    own = kwargs.pop("teacher", None) or teacher()
    options = RunOptions(images, folder=folder, **{"seed": 5, "checkpoint_images": 6 * BATCH, **kwargs})
    sets = TrajectorySettings(count=16, steps=2, record_size=8)
    return Distillation(recipe, own, options, trajectories=sets, **sources)


def finish(job: Distillation, on_progress=None) -> dict[str, torch.Tensor]:
    """Weights of the last round's student."""
    for index in range(len(job.recipe.rounds)):
        job.student_after(index, on_progress)
    return {name: value.clone() for name, value in job.student().denoiser.state_dict().items()}


def trainers_of(job: Distillation) -> list[RoundTrainer]:
    """What trains the rounds of `job`, in a list that fills as it runs them."""
    found, make = [], job.trainer

    def made(index: int):
        trainer, sampler = make(index)
        found.append(trainer)
        return trainer, sampler

    job.trainer = made
    return found


def checkpoint_bytes(folder: Path) -> dict[str, bytes]:
    """The final checkpoints of all rounds: weights, averages, optimisers."""
    found = sorted(folder.glob("round-*/checkpoints/step-*.safetensors"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


if __name__ == "__main__":  # a process to be killed: recipe, folder, device
    torch.set_num_threads(1)
    name, folder, device = [*sys.argv[1:], "cpu"][:3]
    torch.use_deterministic_algorithms(device != "cpu")     # kernels of a GPU may add in any order
    finish(run(tiny(name), Path(folder), device=device), lambda done, *_: print(done, flush=True))

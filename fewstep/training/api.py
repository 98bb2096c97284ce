"""Distillation in one call."""

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fewstep.denoiser import Denoiser
from fewstep.recipes import Overrides, Recipe, load_recipe
from fewstep.students import Student
from fewstep.teachers.mixture import GaussianMixture
from fewstep.training.distillation import Distillation
from fewstep.training.sources import DataSource, ExactData, TensorData
from fewstep.trajectories import TrajectorySettings


def distill(
    recipe: Recipe | str | Path,
    teacher: Denoiser,
    *,
    data: Tensor | tuple[Tensor, Tensor] | DataSource | None = None,
    images: int = 200_000,
    seed: int = 0,
    device: torch.device | str | None = None,
    workdir: str | Path | None = None,
    progress: bool = False,
) -> Student:
    """Distil `teacher` by `recipe`.

    Args:
        recipe: a name (see recipe_names()), the path of a YAML file, or a Recipe.
        teacher: a Denoiser: GaussianMixture, or load_teacher(folder).
        data: real samples (N, ...), or (samples, labels (N,) int64). None: exact samples of a closed-form teacher.
        images: training samples, over all rounds and turns.
        seed: of everything random; equal seeds give equal students.
        device: where to train; None: the GPU if there is one.
        workdir: keeps checkpoints and pairs, from which an interrupted call continues; None keeps nothing.
        progress: prints a line on stderr.

    Returns:
        The student, with `student.sample(noise, steps=None, condition=None, seed=0)`.

    Raises:
        SettingsError: an unknown recipe, data that it needs and that are not given, a workdir of other settings.
        NonFinite: a loss or gradient is NaN or infinite; names recipe, round, step, term and role.
    """
    recipe = load_recipe(recipe)
    closed_form = isinstance(teacher, GaussianMixture)
    home = next((value.device for value in teacher.state_dict().values()), torch.device("cpu"))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if data is None and closed_form:
        data = ExactData(teacher)
    elif isinstance(data, Tensor):
        data = TensorData(data)
    elif isinstance(data, tuple):
        data = TensorData(*data)
    trajectories = TrajectorySettings()
    if closed_form:  # exact scores cost next to nothing: many pairs, precisely solved; an MLP gains nothing by bf16
        if recipe.training.precision == "auto":
            recipe = recipe.override(Overrides(precision="float32"))
        count = min(max(recipe.images_of(0, images), 4096), 65536)
        trajectories = TrajectorySettings(count=count, steps=32, record_size=2048)
    with tempfile.TemporaryDirectory(prefix="fewstep-") as scratch:
        run = Distillation(
            recipe,
            teacher,
            images=images,
            seed=seed,
            folder=Path(workdir) if workdir is not None else Path(scratch),
            data=data,
            trajectories=trajectories,
            device=device,
            keep_checkpoints=workdir is not None,
        )
        for index in range(len(recipe.rounds)):
            run.student_after(index, _printer(recipe, index) if progress else None)
        student = run.student()
    student.denoiser.to(home)
    return student


def _printer(recipe: Recipe, index: int):
    def show(done: int, total: int, figures: dict[str, float]) -> None:
        losses = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if name.count("/") == 1)
        end = "\n" if done >= total else ""
        print(f"\r{recipe.name} round {index + 1}: {done:,}/{total:,} images  {losses}", end=end, file=sys.stderr)

    return show

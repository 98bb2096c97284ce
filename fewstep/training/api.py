"""Distillation in one call."""

import copy
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.unet_mlp import ResidualMLP
from fewstep.recipes import Overrides, Recipe, check_needs, load_recipe
from fewstep.students.student import Student
from fewstep.teachers.mixture import GaussianMixture
from fewstep.training import arguments
from fewstep.training.distillation import Distillation
from fewstep.training.roles.fresh_networks import untrained
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import DataSource, ExactData, PartlyLabelled
from fewstep.trajectories import TrajectorySettings
from fewstep.util.errors import SettingsError


def distill(
    recipe: Recipe | str | Path,
    teacher: Denoiser | None = None,
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
        teacher: a Denoiser: GaussianMixture, or load_teacher(folder); it stays as it is. None for a recipe that needs
            none (ct, ict, meanflow, splitmeanflow, dm1, twinflow): fresh networks for the data's shape and labels,
            vectors (N, D) or images (N, C, S, S), wherever the recipe would take the teacher's. Every tenth sample
            then goes without its label, so that the student also samples without a condition.
        data: real samples (N, ...), (samples, labels (N,) of an integer type), or a DataSource. None: exact samples of
            a closed-form teacher.
        images: training samples, over all rounds and turns.
        seed: of everything random; equal seeds give equal students.
        device: where to train; None: the GPU if there is one.
        workdir: keeps checkpoints and pairs, from which an interrupted call continues; None keeps nothing.
        progress: prints a line on stderr.

    Returns:
        The student, with `student.sample(noise, steps=None, condition=None, seed=0)`.

    Raises:
        SettingsError: an unknown recipe, a teacher or data that it needs and that are not given, data that do not fit
            the teacher, no images, a device that is not here, a workdir of other settings.
        NonFinite: a loss or gradient is NaN or infinite; names recipe, round, step, term and role.
    """
    recipe = load_recipe(recipe)
    arguments.check_images(images)
    device = arguments.usable_device(device)
    source, closed_form = arguments.data_source(data), isinstance(teacher, GaussianMixture)
    check_needs(recipe, data=source is not None or closed_form, pairs=True, teacher=teacher is not None)
    own = _fresh(source, seed) if teacher is None else _copied(teacher, source)
    home = next((value.device for value in own.state_dict().values()), torch.device("cpu"))
    if source is None and closed_form:
        source = ExactData(own)
    elif teacher is None and own.num_classes:
        source = PartlyLabelled(source, own.null_class)
    small = closed_form or (teacher is None and isinstance(own.network, ResidualMLP))
    if small and recipe.training.precision == "auto":  # an MLP gains nothing by bf16
        recipe = recipe.override(Overrides(precision="float32"))
    trajectories = TrajectorySettings()
    if closed_form:  # exact scores cost next to nothing: many pairs, precisely solved
        count = min(max(recipe.images_of(0, images), 4096), 65536)
        trajectories = TrajectorySettings(count=count, steps=32, record_size=2048)
    with tempfile.TemporaryDirectory(prefix="fewstep-") as scratch:
        kept = workdir is not None
        options = RunOptions(images, seed, Path(workdir if kept else scratch), device, keep_checkpoints=kept)
        run = Distillation(recipe, own, options, data=source, trajectories=trajectories)
        for index in range(len(recipe.rounds)):
            run.student_after(index, _printer(recipe, index) if progress else None)
        student = run.student()
    student.denoiser.to(home)
    return student


def _fresh(source: DataSource | None, seed: int) -> Denoiser:
    """What stands where the teacher is missing: a recipe that needs none takes shape, process and labels from it."""
    if source is None:
        raise SettingsError("without a teacher, data must tell what a sample is", hint="give `data`")
    return untrained(arguments.sample_shape(source), arguments.num_classes(source), seed)


def _copied(teacher: Denoiser, source: DataSource | None) -> Denoiser:
    """A teacher to work with: a run moves, freezes and casts its own, and the caller's must stay as it is."""
    arguments.check_teacher(teacher)
    if source is not None:
        arguments.check_fits(source, teacher)
    return copy.deepcopy(teacher).eval()


def _printer(recipe: Recipe, index: int):
    def show(done: int, total: int, figures: dict[str, float]) -> None:
        losses = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if name.count("/") == 1)
        end = "\n" if done >= total else ""
        print(f"\r{recipe.name} round {index + 1}: {done:,}/{total:,} images  {losses}", end=end, file=sys.stderr)

    return show

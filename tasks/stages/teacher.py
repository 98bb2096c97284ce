"""The teacher stage: trains a small diffusion model, or takes a saved one, and lets it pass only if it samples well."""

import json
import os
import shutil
import time
from typing import Any

import torch
from torch import Tensor

from fewstep.data.images import ImageSet, load_split
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.label_groups import require_groups
from fewstep.diffusion.randomness import Permutation, derive, generator, integers, noise
from fewstep.recipes import Recipe
from fewstep.util.device import default_device, device_of
from fewstep.util.errors import SettingsError, StageFailed, laid_at

PARALLEL = False
SOLVER = "dpmsolver++"
BATCH = 256


def check(ctx) -> None:
    """Raises SettingsError for a given teacher that cannot be loaded, or images or groups that do not fit."""
    from fewstep.teachers import inspect_teacher

    images = load_split(ctx.inputs["shard"], "train")
    if len(images) < 2:
        raise SettingsError(f"the train split has {len(images)} images; add images or raise data.split.train")
    if "teacher" not in ctx.given:
        with laid_at("teacher.groups"):
            require_groups(ctx.settings["groups"], images.num_classes, images.num_classes)
        return
    info = inspect_teacher(ctx.given["teacher"])
    if tuple(info.sample_shape) != tuple(images.shape):
        raise SettingsError(
            f"{info.folder}: the teacher makes images of shape {tuple(info.sample_shape)}, the data are {images.shape}",
            hint="set data.size and data.channels, or take another teacher",
        )
    if info.num_classes and images.num_classes > info.num_classes:
        raise SettingsError(f"{info.folder}: {info.num_classes} classes, the data have {images.num_classes}")


def units(ctx) -> list[str]:
    if (ctx.scratch / "checked.json").is_file() and any(ctx.out.iterdir()):
        return []
    return ["check"] if "teacher" in ctx.given else ["train", "check"]


def run_unit(ctx, unit: str) -> None:
    """Train to the end from the newest checkpoint; or export and examine."""
    if unit == "train":
        begun = time.monotonic()
        _trained(ctx, lambda done, total, figures: ctx.progress(done, total, metrics=figures, step=done))
        ctx.record_cost({"training_seconds": round(time.monotonic() - begun, 3)})
        return
    from fewstep.teachers import load_teacher, save_teacher

    teacher = load_teacher(ctx.given["teacher"]) if "teacher" in ctx.given else _trained(ctx)
    export = ctx.scratch / "export"
    shutil.rmtree(export, ignore_errors=True)
    save_teacher(teacher, export)
    teacher, images = load_teacher(export).to(default_device()), load_split(ctx.inputs["shard"], "train")
    found = examine(teacher, images, ctx.settings["check"], ctx.seed)
    shutil.rmtree(ctx.out, ignore_errors=True)
    os.rename(export, ctx.out)
    (ctx.scratch / "checked.json").write_text(json.dumps(found))


def finish(ctx) -> dict:
    return json.loads((ctx.scratch / "checked.json").read_text())


def teacher_recipe(settings: dict[str, Any]) -> Recipe:
    """Denoising score matching with these settings of the stage, in the form that the training loop takes."""
    from fewstep.recipes import parse_recipe

    return parse_recipe(
        {
            "name": "teacher",
            "student": {"init": "random"},
            "optimiser": {"lr": settings["lr"], "weight_decay": 0.01},
            "training": {"batch": settings["batch"], "ema": settings["ema"]},
            "rounds": [{"terms": [{"term": "denoising", "class_dropout": settings["class_dropout"]}]}],
        },
        "teacher",
    )


def _trained(ctx, on_progress=None):
    """The trained network; a run that was finished before is read from its last checkpoint."""
    from fewstep.diffusion.processes import VariancePreserving
    from fewstep.teachers import new_unet
    from fewstep.training import RoundTrainer, Sources

    images, settings = load_split(ctx.inputs["shard"], "train"), ctx.settings
    channels, size, classes = images.shape[0], images.shape[-1], images.num_classes
    groups = require_groups(settings["groups"], classes, classes or None)
    network = new_unet(
        size, channels, classes, settings["channels"], settings["layers"],
        generator=generator(ctx.seed, "teacher-init"), groups=len(groups),
    )  # fmt: skip
    teacher = Denoiser(
        network, VariancePreserving.cosine(), "v_prediction", images.shape, classes, classes or None, groups=groups
    )
    recipe = teacher_recipe(settings)
    trainer = RoundTrainer(
        recipe,
        0,
        {"student": teacher},
        [teacher.process.t_max],
        Sources(data=images),
        images=recipe.images_of(0, settings["images"]),
        seed=derive(ctx.seed, "teacher"),
        folder=ctx.scratch / "checkpoints",
        device=default_device(),
        checkpoint_images=ctx.checkpoint_images,
        warn=ctx.warn,
    )
    return trainer.run(on_progress).to("cpu")


def examine(teacher: Denoiser, images: ImageSet, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Check that weights are finite, the noise end is noisy enough and samples are near the images.

    The distance is sliced Wasserstein between as many samples as images, over that between two halves of the images.

    Args:
        teacher: the denoiser; it samples on the device where it lies.
        images: training images.
        settings: `samples`, `steps`, `max_terminal_snr`, `max_distance_ratio` (teacher.check).
        seed: of the images chosen, the noise and the labels.

    Returns:
        {"parameters", "terminal_snr", "quality"}: what the manifest reports.

    Raises:
        StageFailed: one of the checks failed.
    """
    from fewstep.metrics.distances.sliced import sliced_wasserstein

    for name, value in teacher.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise StageFailed(f"the teacher's weight {name} holds NaN or infinite values")
    process = teacher.process
    snr = float(process.log_snr(torch.tensor(process.t_max, dtype=torch.float64)).exp())
    if snr > settings["max_terminal_snr"]:
        raise StageFailed(
            f"the teacher's terminal signal-to-noise ratio is {snr:.3g}, above {settings['max_terminal_snr']:g}",
            hint="its noise schedule leaves data visible at the start of sampling; take another teacher or raise "
            "teacher.check.max_terminal_snr",
        )
    count = min(settings["samples"], len(images) // 2)
    order = Permutation(len(images), seed, "teacher-check")(torch.arange(2 * count))
    one, other = images.images(order[:count]), images.images(order[count:])
    numbers = range(count)
    condition = None
    if teacher.num_classes:
        labels = images.labels[order[:count]]
        condition = labels if images.num_classes else integers(seed, "teacher-check", numbers, teacher.num_classes)
    drawn = draw(teacher, noise(seed, "teacher-check", numbers, teacher.sample_shape), condition, settings["steps"])
    if not bool(torch.isfinite(drawn).all()):
        raise StageFailed(f"the teacher's samples hold NaN or infinite values ({SOLVER}, {settings['steps']} steps)")
    null, distance = sliced_wasserstein(one, other), sliced_wasserstein(drawn.clamp(-1, 1), one)
    ratio = distance / null
    if ratio > settings["max_distance_ratio"]:
        raise StageFailed(
            f"the teacher's samples are too far from the images: sliced Wasserstein distance {distance:.4g} is "
            f"{ratio:.2f} times that of real against real, allowed are {settings['max_distance_ratio']:g}",
            hint="train longer (teacher.images) or wider (teacher.channels), or raise teacher.check.max_distance_ratio",
        )
    return {
        "parameters": sum(value.numel() for value in teacher.parameters()),
        "terminal_snr": snr,
        "quality": {
            "sliced_wasserstein": distance, "real_against_real": null, "ratio": ratio, "samples": count,
            "solver": SOLVER, "steps": settings["steps"],
        },
    }  # fmt: skip


def draw(teacher: Denoiser, noise: Tensor, condition: Tensor | None, steps: int) -> Tensor:
    """Samples (N, C, H, W) on the CPU, made of `noise` (N, C, H, W) and labels (N,) on the device of `teacher`."""
    from fewstep.diffusion.sampling import sample  # diffusers

    device = device_of(teacher)
    starts = noise.to(device).split(BATCH)
    labels = [None] * len(starts) if condition is None else condition.to(device).split(BATCH)
    parts = [sample(teacher, start, solver=SOLVER, steps=steps, condition=given).x
             for start, given in zip(starts, labels, strict=True)]
    return torch.cat(parts).cpu()

"""The classifier stage: the few features in which every later figure is measured, from the fit split alone."""

import os

import torch

from fewstep.data.images import load_split
from fewstep.networks.feature_classifier import (
    accuracy,
    fit_components,
    load_features,
    save_features,
    train_classifier,
)
from fewstep.util.errors import SettingsError
from fewstep.util.torch_threads import threads

PARALLEL = False
_FILES = ("features.safetensors", "features.json")  # the description is moved into place last
_POOR = 0.8


def check(ctx) -> None:
    """Raises SettingsError when the fit split is too small to learn from."""
    images = load_split(ctx.inputs["shard"], "fit")
    needed = 2 * images.num_classes if images.num_classes else ctx.settings["features"] + 1
    if len(images) < needed:
        raise SettingsError(
            f"the fit split has {len(images)} images, the classifier needs at least {needed}; "
            f"add images or raise data.split.fit"
        )


def units(ctx) -> list[str]:
    return [] if (ctx.out / _FILES[-1]).is_file() else ["all"]


def run_unit(ctx, unit: str) -> None:
    with threads(1):  # gradients summed over several threads differ in their last bits
        model = _fitted(ctx)
    folder = ctx.scratch / unit
    folder.mkdir(parents=True, exist_ok=True)
    ctx.out.mkdir(parents=True, exist_ok=True)
    save_features(model, folder)
    for name in _FILES:
        os.replace(folder / name, ctx.out / name)


def _fitted(ctx):
    settings, images = ctx.settings, load_split(ctx.inputs["shard"], "fit")
    if not images.num_classes:
        return fit_components(images.images(), settings["features"])
    batch = settings["batch"]
    return train_classifier(
        images.images(), images.labels, images.num_classes, seed=ctx.seed, batch=batch,
        steps=max(1, settings["images"] // batch), learning_rate=settings["lr"], features=settings["features"],
        on_step=lambda step, steps: ctx.progress(step * batch, steps * batch),
    )  # fmt: skip


def finish(ctx) -> dict:
    model = load_features(ctx.out)
    test = load_split(ctx.inputs["shard"], "test")
    fitted = len(load_split(ctx.inputs["shard"], "fit"))
    if not test.num_classes:
        return {"features": f"pca-{ctx.settings['features']}", "fit_images": fitted}
    with torch.no_grad():
        share = accuracy(model, test.images(), test.labels)
    if share < _POOR:
        ctx.warn(
            f"the classifier recognises only {share:.0%} of {len(test)} test images: distances in its features and "
            f"class accuracy mean little; raise evaluate.classifier.images or data.split.fit"
        )
    return {"features": f"classifier-{ctx.settings['features']}", "fit_images": fitted, "test_images": len(test),
            "test_accuracy": round(share, 6)}

"""The classifier stage: the few features in which every later figure is measured, from the fit split alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError
from tasks.config.schema import Classifier, Settings
from tasks.stages.base import Context, Stage

# torch is imported in the methods that compute: the graph reads this file

if TYPE_CHECKING:
    from fewstep.networks.feature_classifier import Classifier as Network
    from fewstep.networks.feature_classifier import PrincipalComponents

_FILES = ("features.safetensors", "features.json")  # the description is moved into place last
_POOR = 0.8


class ClassifierResult(Strict):
    """What the features are of: name, images fitted to; with classes also the accuracy on the test split."""

    features: str
    fit_images: int
    test_images: int | None = None
    test_accuracy: float | None = None


class ClassifierStage(Stage[Classifier, ClassifierResult]):
    """A small classifier, or principal components where the images have no classes; one unit."""

    name = "classifier"
    output = "data/classifier"
    settings_type = Classifier
    inputs = ("shard",)
    params = ("seed", "evaluate")

    def resolve(self, settings: Settings) -> Classifier:
        return settings.evaluate.classifier

    def shortened(self, settings: Classifier) -> Classifier:
        return settings.model_copy(update={"images": min(settings.images, 8 * settings.batch)})

    def check(self, context: Context[Classifier]) -> None:
        """Refuse a fit split that is too small to learn from."""
        from fewstep.data.images import load_split  # loads torch

        images = load_split(context.inputs["shard"], "fit")
        needed = 2 * images.num_classes if images.num_classes else context.settings.features + 1
        if len(images) < needed:
            raise SettingsError(
                f"the fit split has {len(images)} images, the classifier needs at least {needed}; "
                f"add images or raise data.split.fit"
            )

    def units(self, context: Context[Classifier]) -> list[str]:
        return [] if (context.out / _FILES[-1]).is_file() else ["all"]

    def run_unit(self, context: Context[Classifier], unit: str) -> None:
        from fewstep.networks.feature_classifier import save_features  # loads torch
        from fewstep.util.torch_threads import threads

        with threads(1):  # gradients summed over several threads differ in their last bits
            model = _fitted(context)
        folder = context.scratch / unit
        folder.mkdir(parents=True, exist_ok=True)
        context.out.mkdir(parents=True, exist_ok=True)
        save_features(model, folder)
        for name in _FILES:
            os.replace(folder / name, context.out / name)

    def finish(self, context: Context[Classifier]) -> ClassifierResult:
        import torch  # loads torch

        from fewstep.data.images import load_split  # loads torch
        from fewstep.networks.feature_classifier import accuracy, load_features

        model, features = load_features(context.out), context.settings.features
        test = load_split(context.inputs["shard"], "test")
        fitted = len(load_split(context.inputs["shard"], "fit"))
        if not test.num_classes:
            return ClassifierResult(features=f"pca-{features}", fit_images=fitted)
        with torch.no_grad():
            share = accuracy(model, test.images(), test.labels)
        if share < _POOR:
            context.warn(
                f"the classifier recognises only {share:.0%} of {len(test)} test images: distances in its features and "
                f"class accuracy mean little; raise evaluate.classifier.images or data.split.fit"
            )
        return ClassifierResult(features=f"classifier-{features}", fit_images=fitted, test_images=len(test),
                                test_accuracy=round(share, 6))  # fmt: skip


def _fitted(context: Context[Classifier]) -> Network | PrincipalComponents:
    from fewstep.data.images import load_split  # loads torch
    from fewstep.networks.feature_classifier import fit_components, train_classifier

    settings, images = context.settings, load_split(context.inputs["shard"], "fit")
    if not images.num_classes:
        return fit_components(images.images(), settings.features)
    batch = settings.batch
    return train_classifier(
        images.images(), images.labels, images.num_classes, seed=context.seed, batch=batch,
        steps=max(1, settings.images // batch), learning_rate=settings.lr, features=settings.features,
        on_step=lambda step, steps: context.progress(step * batch, steps * batch),
    )  # fmt: skip

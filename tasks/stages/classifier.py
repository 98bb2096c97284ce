"""The classifier stage: the few features in which every later figure is measured, from the fit split alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import Field

from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError
from tasks.config.schema import Classifier, Settings
from tasks.stages.base import Context, Stage

# torch is imported in the methods that compute: the graph reads this file

if TYPE_CHECKING:
    from fewstep.data.images import ImageSet
    from fewstep.data.prompts import PromptTable
    from fewstep.networks.feature_files import Features

_FILES = ("features.safetensors", "features.json")  # the description is moved into place last
_POOR = 0.8
_TEXTS = 3              # different captions that an image tower can be fitted to
_POOR_RETRIEVAL = 0.3


class ClassifierResult(Strict):
    """What the features are of: name, images fitted to; with classes also the accuracy on the test split, with texts
    the share of its images whose text is found among 64."""

    features: str
    fit_images: int
    test_images: int | None = None
    test_accuracy: float | None = None
    test_retrieval: float | None = Field(default=None, exclude_if=lambda share: share is None)


class ClassifierStage(Stage[Classifier, ClassifierResult]):
    """A small classifier; for a teacher of texts a tower of images beside its embeddings of the captions; principal
    components where the images have neither. One unit."""

    name = "classifier"
    output = "data/classifier"
    settings_type = Classifier
    inputs = ("shard", "encode", "reference")
    params = ("seed", "evaluate")

    def resolve(self, settings: Settings) -> Classifier:
        return settings.evaluate.classifier

    def shortened(self, settings: Classifier) -> Classifier:
        return settings.model_copy(update={"images": min(settings.images, 8 * settings.batch)})

    def check(self, context: Context[Classifier]) -> None:
        """Refuse a fit split that is too small to learn from."""
        from fewstep.data.images import load_split  # loads torch
        from tasks.data.reference_folder import reference_images

        images, texts = load_split(reference_images(context), "fit"), _texts(context)
        by_class = images.num_classes and texts is None
        needed = 2 * images.num_classes if by_class else context.settings.features + 1
        if len(images) < needed:
            raise SettingsError(
                f"the fit split has {len(images)} images, the classifier needs at least {needed}; "
                f"add images or raise data.split.fit"
            )

    def units(self, context: Context[Classifier]) -> list[str]:
        return [] if (context.out / _FILES[-1]).is_file() else ["all"]

    def run_unit(self, context: Context[Classifier], unit: str) -> None:
        from torch.backends import cudnn  # loads torch

        from fewstep.networks.feature_files import save_features  # loads torch
        from fewstep.util.torch_threads import threads

        # gradients summed over several threads, or by whichever of cuDNN's kernels, differ in their last bits
        with threads(1), cudnn.flags(enabled=True, deterministic=True):
            model = _fitted(context).cpu()
        folder = context.scratch / unit
        folder.mkdir(parents=True, exist_ok=True)
        context.out.mkdir(parents=True, exist_ok=True)
        save_features(model, folder)
        for name in _FILES:
            os.replace(folder / name, context.out / name)

    def finish(self, context: Context[Classifier]) -> ClassifierResult:
        import torch  # loads torch

        from fewstep.data.images import load_split  # loads torch
        from fewstep.networks.feature_classifier import Classifier, accuracy
        from fewstep.networks.feature_files import load_features
        from fewstep.networks.text_tower import TextTower
        from fewstep.util.device import default_device
        from tasks.data.reference_folder import reference_images

        model, features = load_features(context.out).to(default_device()), context.settings.features
        test = load_split(reference_images(context), "test")
        fitted = len(load_split(reference_images(context), "fit"))
        if isinstance(model, TextTower):
            share = _retrieval(context, test)
            return ClassifierResult(features=f"text-{features}", fit_images=fitted, test_images=len(test),
                                    test_retrieval=share)  # fmt: skip
        if not isinstance(model, Classifier):
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


def _fitted(context: Context[Classifier]) -> Features:
    import torch  # loads torch

    from fewstep.data.images import load_split  # loads torch
    from fewstep.metrics.extractors.media import fitted_to
    from fewstep.networks.feature_classifier import fit_components, train_classifier
    from fewstep.networks.text_tower import fit_text_tower
    from fewstep.util.device import default_device
    from tasks.data.reference_folder import reference_images

    settings, images = context.settings, load_split(reference_images(context), "fit")
    batch, texts = settings.batch, _texts(context)
    how = {"seed": context.seed, "batch": batch, "steps": max(1, settings.images // batch),
           "features": settings.features, "learning_rate": settings.lr, "device": default_device(),
           "on_step": lambda step, steps: context.progress(step * batch, steps * batch)}
    if texts is not None:
        told = (images.prompts >= 0).nonzero().flatten()
        pictures, owners = fitted_to(images.images(told), images.medium, images.rate)
        return fit_text_tower(pictures, images.prompts[told[owners]], torch.from_numpy(texts.embedding), **how)
    if not images.num_classes:  # no training: principal components are found on the CPU
        return fit_components(fitted_to(images.images(), images.medium, images.rate)[0], settings.features)
    return train_classifier(images.images(), images.labels, images.num_classes, **how)


def _texts(context: Context[Classifier]) -> PromptTable | None:
    """The embedded prompts that the teacher is asked for, if the fit split shows enough of them; else None."""
    from fewstep.data.images import load_split  # loads torch
    from fewstep.families.encoded_set import EncodedSet
    from tasks.data.reference_folder import reference_images

    prompts = EncodedSet(context.inputs["encode"]).prompt_table()
    rows = load_split(reference_images(context), "fit").prompts
    enough = len(rows[rows >= 0].unique()) >= _TEXTS and int((rows >= 0).sum()) > context.settings.features
    return prompts if prompts.embedding is not None and enough else None


def _retrieval(context: Context[Classifier], test: ImageSet) -> float | None:
    """The share of test images whose caption is found among 64; warns where it is little."""
    import numpy as np  # as torch

    from fewstep.families.encoded_set import EncodedSet  # loads torch
    from fewstep.metrics.distances.text_alignment import AMONG, found
    from fewstep.metrics.extractors.extractor import load_extractor
    from fewstep.metrics.extractors.media import seen_as
    from fewstep.util.device import default_device

    told = (test.prompts >= 0).nonzero().flatten()
    prompts = EncodedSet(context.inputs["encode"]).prompt_table()
    distinct = len({prompts.texts[row] for row in test.prompts[told].tolist()})
    if distinct < 2:
        return None
    extractor = seen_as(load_extractor(context.out, default_device()), test.medium, test.shape, test.rate,
                        by_spectrum=True)  # fmt: skip
    images = np.concatenate([extractor.embed(test.images(rows)) for rows in told.split(256)])
    hits = found(images, extractor.texts(prompts), test.prompts[told].numpy(), prompts.texts, context.seed)
    share = float(hits.mean())
    if share < _POOR_RETRIEVAL * (1 - 1 / min(AMONG, len(set(prompts.texts)))):
        context.warn(f"the features find the caption of only {share:.0%} of {len(told)} test images among "
                     f"{min(AMONG, len(set(prompts.texts)))}: retrieval and text alignment mean little; raise "
                     "evaluate.classifier.images or data.split.fit, or give CLIP's weights (evaluate.extractors)")
    return round(share, 6)

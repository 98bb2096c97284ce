"""What every model is asked to draw: the same noise and the same classes, sample by sample."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fewstep.data.images import ImageSet
from fewstep.diffusion.randomness import integers, noise
from fewstep.metrics.comparison.stratified_order import mixed
from fewstep.util.errors import SettingsError

NOISE = "evaluation"
"""Purpose of the sampling noise: never the trajectories', so no student has seen it."""


class SamplePlan:
    """Noise and class of every sample, as functions of its index.

    Args:
        reference: images whose shape and class frequencies the samples have.
        samples: number of samples of every model.
        seed: of the sampling noise, the classes and the order of samples.
        batch: samples per call of a model and images per call of an extractor.
        num_classes: of the models; 0 if they take no class.
        shape: of the models' noise; default: the images'.
        prompts: (P,) ascending rows of conditions, for models that are asked for prompts: every one is asked for alike
            often, and at least twice, so that samples of one prompt can be compared: of more than half as many prompts
            as samples a keyed choice is asked for. None for models of classes.
    """

    def __init__(self, reference: ImageSet, *, samples: int, seed: int, batch: int, num_classes: int,
                 shape: tuple[int, ...] | None = None, prompts: Tensor | None = None):  # fmt: skip
        if prompts is not None and not len(prompts):
            raise SettingsError("there is no prompt in the test split",
                                hint="give more prompts, or raise data.split.test")  # fmt: skip
        self.reference = reference
        self.shape, self.prompts = shape or reference.shape, prompts
        self.samples, self.seed, self.batch, self.num_classes = samples, seed, batch, num_classes

    def batches(self) -> Iterator[Tensor]:
        """Sample indices, `batch` at a time."""
        return iter(torch.arange(self.samples).split(self.batch))

    def noise(self, indices: Tensor) -> Tensor:
        """(N, *shape) standard normal noise of these samples."""
        return noise(self.seed, NOISE, indices, self.shape)

    def conditions(self, indices: Tensor) -> Tensor | None:
        """(N,) int64 classes, or rows of prompts, of these samples; None for models without conditions.

        The reference's own labels in turn, in an order that spreads every class evenly, so that any number of samples
        has the reference's class frequencies; uniform where the reference has no labels.
        """
        if not self.num_classes:
            return None
        if self.prompts is not None or self.reference.num_classes:
            return self._cycle[indices % len(self._cycle)]
        return integers(self.seed, "evaluation-condition", indices, self.num_classes)

    @cached_property
    def classes(self) -> Tensor | None:
        """(samples,) classes, or rows of prompts, of all samples; None for models without conditions."""
        return self.conditions(torch.arange(self.samples))

    @property
    def conditions_told(self) -> str:
        """How the classes are chosen, in the words of the protocol."""
        if not self.num_classes:
            return "none"
        if self.prompts is not None:
            return f"{len(self._cycle)} of the test split's {len(self.prompts)} prompts in turn"
        return "the reference's labels in turn" if self.reference.num_classes else "uniform"

    @cached_property
    def _cycle(self) -> Tensor:
        if self.prompts is not None:
            order = torch.from_numpy(self.shuffled(len(self.prompts), None, "conditions"))
            return self.prompts[order[: max(1, self.samples // 2)]]
        labels = self.reference.labels
        return labels[torch.from_numpy(self.shuffled(len(labels), labels, "conditions"))]

    def shuffled(self, n: int, labels: Tensor | None, purpose: str) -> np.ndarray:
        """(n,) indices in random order, keyed by seed and purpose; given labels, every class is spread evenly."""
        return mixed(n, None if labels is None else labels.numpy(), self.seed, "evaluation-order-" + purpose)

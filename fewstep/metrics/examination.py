"""One protocol for everything that is judged: students, solvers, teacher and real images pass the same examination."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fewstep.errors import NonFinite, SettingsError
from fewstep.images import ImageSet, to_bytes, to_unit_range
from fewstep.metrics.features import Extractor
from fewstep.metrics.frechet import frechet_bias, frechet_extrapolated
from fewstep.metrics.intervals import Interval, normal, wilson
from fewstep.metrics.kernel import Estimate, kernel_distance, kernel_distance_difference
from fewstep.metrics.moments import Moments
from fewstep.metrics.neighbours import memorisation, nearest_distances, precision_recall
from fewstep.metrics.order import mixed, proportionate
from fewstep.metrics.protocol import Protocol, Value, rounded
from fewstep.metrics.same_noise import agreement
from fewstep.randomness import integers, noise

NOISE = "evaluation"
"""Purpose of the sampling noise: never the trajectories', so no student has seen it."""
NEIGHBOURS = 3
"""k of precision and recall."""
NEAREST = 1000
"""Samples (and held-out images) whose nearest training image is looked up."""
_TRAINING_BLOCK = 4096
_FEWEST = 24


@dataclass(frozen=True)
class Observed:
    """What one set of samples looks like; row i of everything is sample i.

    Attributes:
        features: (n, d) float64.
        classes: (n,) int64 as the extractor sees them, None if it knows no classes.
        nearest: (min(n, 1000),) float64 pixel distances to the nearest training image.
    """

    features: np.ndarray
    classes: np.ndarray | None
    nearest: np.ndarray


class Examination:
    """Examines images under one protocol.

    Images come as uint8 (clipped to [-1, 1] and quantised to 8 bit, as pictures are seen); features are taken from
    these, batch by batch of a fixed size.

    Args:
        extractor: maps images to features.
        test: reference images, at least 24.
        train: the images the teacher was trained on, for the memorisation control.
        samples: number of samples of every model.
        seed: of the sampling noise, the classes asked for and the order of samples.
        batch: images per call of the extractor.
        reference_digest: SHA-256 of the image set that both splits belong to.
        num_classes: of the models that are examined; 0 if they take no class.
    """

    def __init__(self, extractor: Extractor, test: ImageSet, train: ImageSet, *, samples: int, seed: int, batch: int,
                 reference_digest: str, num_classes: int):
        if min(len(test), len(train)) < _FEWEST:
            raise SettingsError(
                f"evaluation needs at least {_FEWEST} reference and {_FEWEST} training images, there are "
                f"{len(test)} and {len(train)}; add images or change data.split"
            )
        self.extractor, self.test, self.train = extractor, test, train
        self.samples, self.seed, self.batch, self.num_classes = samples, seed, batch, num_classes
        self.reference_digest = reference_digest

    # what every model is asked to draw

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.test.shape

    def batches(self) -> Iterator[Tensor]:
        """Sample indices, `batch` at a time."""
        return iter(torch.arange(self.samples).split(self.batch))

    def noise(self, indices: Tensor) -> Tensor:
        """(N, C, H, W) standard normal noise of these samples."""
        return noise(self.seed, NOISE, indices, self.shape)

    def conditions(self, indices: Tensor) -> Tensor | None:
        """(N,) classes asked for; None for models without classes.

        The reference's own labels in turn, in an order that spreads every class evenly, so that any number of samples
        has the reference's class frequencies; uniform where the reference has no labels.
        """
        if not self.num_classes:
            return None
        if self.test.num_classes:
            return self._asked[indices % len(self._asked)]
        return integers(self.seed, "evaluation-condition", indices, self.num_classes)

    @cached_property
    def _labels(self) -> Tensor:
        return self.test.labels

    @cached_property
    def _asked(self) -> Tensor:
        return self._labels[torch.from_numpy(self._spread(len(self._labels), self._labels, "conditions"))]

    @cached_property
    def by_class(self) -> bool:
        """Whether models are measured given the class: the samples have the reference's classes, at least two of each,
        in shares that differ from the reference's by less than a fifth, and so can training images."""
        asked = self.conditions(torch.arange(self.samples))
        if asked is None or not self.test.num_classes:
            return False
        counts = np.array([np.bincount(labels.numpy(), minlength=self.num_classes) for labels in (asked, self._labels)])
        counts = counts[:, counts.any(axis=0)]
        shares = counts / counts.sum(axis=1, keepdims=True)
        alike = counts.min() >= 2 and (np.abs(shares[0] / shares[1] - 1) < 0.2).all()
        return bool(alike) and self._floor_rows is not None

    @cached_property
    def _floor_rows(self) -> Tensor | None:
        """Training images with the reference's class frequencies; None where there are too few of some class."""
        rows = proportionate(self.train.labels.numpy(), self._labels.numpy(), self.seed, "evaluation-floor")
        return None if rows is None or len(rows) < _FEWEST else torch.from_numpy(rows)

    # looking

    def observe(self, images: Tensor) -> Observed:
        """Features, classes and nearest training images of (n, C, H, W) uint8 images."""
        parts = images.split(self.batch)
        features = np.concatenate([self.extractor(to_unit_range(part)) for part in parts])
        classes = None
        if self.extractor.num_classes:
            classes = np.concatenate([self.extractor.classify(to_unit_range(part)) for part in parts])
        points = to_unit_range(images[:NEAREST]).flatten(1).numpy()
        return Observed(features, classes, nearest_distances(points, self._training_blocks()))

    def _training_blocks(self) -> Iterator[np.ndarray]:
        for rows in torch.arange(len(self.train)).split(_TRAINING_BLOCK):
            yield self.train.images(rows).flatten(1).numpy()

    @cached_property
    def reference(self) -> Observed:
        """The test split, seen the same way."""
        return self.observe(_as_bytes(self.test))

    # judging

    def measure(self, seen: Observed, subject: str, *, conditions: Tensor | None = None, images: Tensor | None = None,
                teacher: Tensor | None = None) -> dict[str, Value]:
        """All figures of one set of samples.

        Args:
            seen: what `observe` returned.
            subject: name in messages and tables.
            conditions: (n,) classes that were asked for; None leaves class accuracy out.
            images: (n, C, H, W) uint8 samples, and
            teacher: the teacher's from the same noise; None leaves agreement out.

        Returns:
            By name: fd_infinite and fd (extrapolated and plain Fréchet distance), fd_bias, kid, precision, recall,
            class_accuracy, nearest_ratio and nearest_share (memorisation), agreement_rms, agreement_correlation.

        Raises:
            NonFinite: a feature is NaN or infinite.
        """
        return self._measure(seen, subject, "samples", self._protocol(len(seen.features)), conditions, images, teacher)

    def floor(self) -> dict[str, Value]:
        """The same for training images in the place of samples: what real images score against real images.

        As many of them as there are with classes in the reference's proportions, which samples have too. Held-out
        images stand in for the nearest neighbours, as training images would find themselves.
        """
        images, labels = _as_bytes(self.train), None
        if self.train.num_classes:
            labels = self.train.labels
        if self.by_class:
            images, labels = images[self._floor_rows], labels[self._floor_rows]
        seen = self.observe(images)
        seen = Observed(seen.features, seen.classes, self.reference.nearest)
        protocol = self._protocol(len(images)).model_copy(
            update={"noise": "none: real images of the train split", "conditions": "as they are"})
        return self._measure(seen, "real images", "train", protocol, labels, None, None)

    def _protocol(self, n: int) -> Protocol:
        asked = "the reference's labels in turn" if self.test.num_classes else "uniform"
        return Protocol(
            metric="", samples=n, seed=self.seed, noise=NOISE, conditions=asked if self.num_classes else "none",
            reference="test split", reference_samples=len(self.test), reference_digest=self.reference_digest,
            features=self.extractor.name, features_digest=self.extractor.digest, dimensions=self.extractor.dimensions,
        )  # fmt: skip

    def _measure(self, seen: Observed, subject: str, source: str, protocol: Protocol, conditions: Tensor | None,
                 images: Tensor | None, teacher: Tensor | None) -> dict[str, Value]:
        if not np.isfinite(seen.features).all():
            raise NonFinite(f"{subject}: features of the samples are NaN or infinite")
        values: dict[str, Value] = {}

        def put(name: str, value: float, n: int, bounds: Interval | None, **parameters):
            described = protocol.model_copy(update={"metric": name, "parameters": parameters})
            values[name] = Value(value=value, n=n, interval=bounds, protocol=described, subject=subject)

        n = len(seen.features)
        strata = self._strata(conditions)
        asked, known = (conditions, self._labels) if strata else (None, None)
        features = seen.features[self._spread(n, asked, source)]
        reference = self.reference.features[self._spread(len(self.test), known, "reference")]
        fd = frechet_extrapolated(features, reference)
        put("fd_infinite", fd.infinite, n, normal(fd.infinite, fd.infinite_error), extrapolation="linear in 1/n",
            subsets="disjoint, whole to eighths, of 20 d samples or more",
            interval="jackknife over samples and reference")
        put("fd", fd.finite, n, normal(fd.finite, fd.finite_error), interval="jackknife over samples and reference")
        put("fd_bias", frechet_bias(Moments.of(features).covariance, n), n, None, formula="first order, Gaussian")
        kid = kernel_distance(seen.features, self.reference.features, strata)
        put("kid", kid.value, n, normal(kid.value, kid.standard_error), kernel="(x·y/d + 1)^3, unbiased, all pairs",
            given="classes" if strata else "nothing", interval="influence of samples and reference")
        precision, recall = precision_recall(features, reference, NEIGHBOURS)
        for name, share in (("precision", precision), ("recall", recall)):
            put(name, share.value, share.n, share.interval, k=NEIGHBOURS, points=recall.n, interval="binomial")
        if conditions is not None and seen.classes is not None:
            right = float((seen.classes == conditions.numpy()).mean())
            put("class_accuracy", right, n, wilson(right, n), interval="binomial")
        looked_up = {"images": len(self.train), "held_out": len(self.reference.nearest), "space": "pixels"}
        memory = memorisation(seen.nearest, self.reference.nearest)
        put("nearest_ratio", memory.ratio, len(seen.nearest), memory.ratio_interval, **looked_up)
        put("nearest_share", memory.near.value, memory.near.n, memory.near.interval, threshold="5 % of held-out",
            **looked_up)
        if images is not None and teacher is not None:
            pixels = [to_unit_range(stack).numpy() for stack in (images, teacher)]
            same = agreement(*pixels, None if conditions is None else conditions.numpy())
            put("agreement_rms", same.rms, n, same.rms_interval, units="value range")
            put("agreement_correlation", same.correlation, n, same.correlation_interval,
                of="deviations from the teacher's mean image" + (" of the class" if conditions is not None else ""))
        return values

    def paired_kid(self, a: np.ndarray, b: np.ndarray, conditions: Tensor | None) -> Estimate:
        """KID of `a` minus KID of `b`, (n, d) features of two models' samples from the examination's noise and classes.

        Given the classes where `by_class` says so. Negative: a is nearer to the reference.
        """
        return kernel_distance_difference(a, b, self.reference.features, self._strata(conditions))

    def _strata(self, conditions: Tensor | None) -> tuple[np.ndarray, np.ndarray] | None:
        return (conditions.numpy(), self._labels.numpy()) if self.by_class and conditions is not None else None

    def _spread(self, n: int, labels: Tensor | None, purpose: str) -> np.ndarray:
        return mixed(n, None if labels is None else labels.numpy(), self.seed, "evaluation-order-" + purpose)

    def per_class(self, seen: Observed, conditions: Tensor | None) -> list[dict]:
        """Per class: name, n asked for, share recognised, interval. Empty without classes."""
        if conditions is None or seen.classes is None:
            return []
        rows = []
        for label, name in enumerate(self.test.class_names):
            asked = (conditions == label).numpy()
            if asked.any():
                share, n = float((seen.classes[asked] == label).mean()), int(asked.sum())
                low, high = wilson(share, n)
                rows.append({"class": name, "n": n, "accuracy": rounded(share),
                             "interval": [rounded(low), rounded(high)]})
        return rows


def _as_bytes(images: ImageSet) -> Tensor:
    return torch.cat([to_bytes(images.images(rows)) for rows in torch.arange(len(images)).split(_TRAINING_BLOCK)])

"""One protocol for everything that is judged: students, solvers, teacher and real images pass the same examination."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.data.images import ImageSet, to_bytes, to_unit_range
from fewstep.diffusion.randomness import integers, noise
from fewstep.metrics.comparison.stratified_order import mixed, proportionate
from fewstep.metrics.comparison.teacher_agreement import agreement
from fewstep.metrics.distances.diversity import diversity
from fewstep.metrics.distances.frechet import Extrapolated, frechet_bias, frechet_extrapolated
from fewstep.metrics.distances.intervals import Interval, normal, wilson
from fewstep.metrics.distances.kernel_distance import Estimate, kernel_distance, kernel_distance_difference
from fewstep.metrics.distances.kernels import Cubic, Gaussian, median_bandwidth
from fewstep.metrics.distances.moments import Moments
from fewstep.metrics.distances.nearest_neighbours import manifolds, memorisation, nearest, nearest_distances
from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.feature_cache import Observed, content_key, kept
from fewstep.metrics.protocol import Protocol, Sampling, Value, rounded
from fewstep.util.errors import NonFinite, SettingsError

NOISE = "evaluation"
"""Purpose of the sampling noise: never the trajectories', so no student has seen it."""
NEIGHBOURS = 3
"""k of precision and recall."""
DENSITY_NEIGHBOURS = 5
"""k of density and coverage."""
CMMD_BANDWIDTH, CMMD_SCALE = 10.0, 1000.0
"""Of CMMD (Jayasumana et al. 2024, arXiv 2401.09603), in normalised CLIP features; the unbiased estimator is ours."""
NEAREST = 1000
"""Samples (and held-out images) whose nearest training image is looked up."""
_TRAINING_BLOCK = 4096
_FEWEST = 24


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
        more: further extractors, in whose features the distances are measured as well.
        cache: folder that keeps what was seen in the reference, by content; None keeps nothing.
    """

    def __init__(self, extractor: Extractor, test: ImageSet, train: ImageSet, *, samples: int, seed: int, batch: int,
                 reference_digest: str, num_classes: int, more: Sequence[Extractor] = (), cache: Path | None = None):
        if min(len(test), len(train)) < _FEWEST:
            raise SettingsError(
                f"evaluation needs at least {_FEWEST} reference and {_FEWEST} training images, there are "
                f"{len(test)} and {len(train)}; add images or change data.split"
            )
        self.extractor, self.test, self.train = extractor, test, train
        self.samples, self.seed, self.batch, self.num_classes = samples, seed, batch, num_classes
        self.reference_digest, self.more, self.cache = reference_digest, tuple(more), cache

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
        return self._observe(images, self._known["training"])

    def _observe(self, images: Tensor, training: np.ndarray) -> Observed:
        features = self._features(self.extractor, images)
        classes = None
        if self.extractor.num_classes:
            classes = np.concatenate([self.extractor.classify(to_unit_range(part)) for part in self._parts(images)])
        near = nearest_distances(_points(images[:NEAREST]), self._training_blocks())
        return Observed(features, classes, near, nearest_distances(features[:NEAREST], [training]),
                        {one.name: self._features(one, images) for one in self.more})  # fmt: skip

    def _parts(self, images: Tensor) -> tuple[Tensor, ...]:
        return images.split(self.batch)

    def _features(self, extractor: Extractor, images: Tensor) -> np.ndarray:
        return np.concatenate([extractor(to_unit_range(part)) for part in self._parts(images)])

    def _training_blocks(self) -> Iterator[np.ndarray]:
        for rows in torch.arange(len(self.train)).split(_TRAINING_BLOCK):
            yield self.train.images(rows).flatten(1).numpy()

    def nearest_training(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """For each of (n, C, H, W) uint8 images the number (n,) of the nearest training image and its distance (n,)."""
        return nearest(_points(images), self._training_blocks())

    @property
    def reference(self) -> Observed:
        """The test split, seen the same way."""
        return Observed.of(self._known)

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        """What was seen in the test split and, as `training`, the training images' features; made once per content."""

        def make() -> dict[str, np.ndarray]:
            training = np.concatenate([self._features(self.extractor, to_bytes(self.train.images(rows)))
                                       for rows in torch.arange(len(self.train)).split(_TRAINING_BLOCK)])  # fmt: skip
            return {**self._observe(_as_bytes(self.test), training).tensors(), "training": training}

        described = [self._statistics(one) for one in (self.extractor, *self.more)]
        return kept(self.cache, content_key({"extractors": described, "batch": self.batch}), make)

    def _statistics(self, extractor: Extractor) -> str:
        return content_key({
            "images": self.reference_digest, "split": "test", "n": len(self.test), "features": extractor.digest,
            "dimensions": extractor.dimensions, "resized": extractor.resized, "antialiased": extractor.antialiased,
        })  # fmt: skip

    # judging

    def measure(self, seen: Observed, subject: str, *, conditions: Tensor | None = None, images: Tensor | None = None,
                teacher: Tensor | None = None, sampling: Sampling | None = None,
                fd: Extrapolated | None = None) -> dict[str, Value]:  # fmt: skip
        """All figures of one set of samples.

        Args:
            seen: what `observe` returned.
            subject: name in messages and tables.
            conditions: (n,) classes that were asked for; None leaves class accuracy out.
            images: (n, C, H, W) uint8 samples, and
            teacher: the teacher's from the same noise; None leaves agreement out.
            sampling: how the samples were drawn; travels with every value.
            fd: what `frechet` said of them, where it was asked already.

        Returns:
            By name: fd_infinite and fd (extrapolated and plain Fréchet distance), fd_bias, kid, mmd, precision, recall,
            density, coverage, diversity (within a class, where there are classes), class_accuracy, nearest_ratio and
            nearest_share (memorisation, in pixels; with `_features` in feature space), agreement_rms,
            agreement_correlation. With further extractors the distances again, as `fd_infinite@NAME`.

        Raises:
            NonFinite: a feature is NaN or infinite.
        """
        return self._measure(seen, subject, "samples", self._protocol(len(seen.features)), conditions, images, teacher,
                             sampling, fd)  # fmt: skip

    def frechet(self, seen: Observed, conditions: Tensor | None) -> Extrapolated:
        """The extrapolated Fréchet distance of samples with its jackknife replicates, which are paired between models
        that were asked for the same samples."""
        return self._frechet(seen.features, self.reference.features, "samples", conditions)

    def floor(self) -> dict[str, Value]:
        """The same for training images in the place of samples: what real images score against real images.

        As many of them as there are with classes in the reference's proportions, which samples have too. Held-out
        images stand in for the nearest neighbours, as training images would find themselves.
        """
        seen, labels = self._real
        protocol = self._protocol(len(seen.features)).model_copy(
            update={"noise": "none: real images of the train split", "conditions": "as they are"})
        return self._measure(seen, "real images", "train", protocol, labels)

    def floor_per_class(self) -> list[dict]:
        """`per_class` of the same real images."""
        return self.per_class(*self._real)

    @cached_property
    def _real(self) -> tuple[Observed, Tensor | None]:
        images, labels = _as_bytes(self.train), None
        if self.train.num_classes:
            labels = self.train.labels
        if self.by_class:
            images, labels = images[self._floor_rows], labels[self._floor_rows]
        seen, reference = self.observe(images), self.reference
        return Observed(seen.features, seen.classes, reference.nearest, reference.nearest_features, seen.more), labels

    def _protocol(self, n: int) -> Protocol:
        asked = "the reference's labels in turn" if self.test.num_classes else "uniform"
        return Protocol(
            metric="", samples=n, seed=self.seed, noise=NOISE, conditions=asked if self.num_classes else "none",
            reference="test split", reference_samples=len(self.test), reference_digest=self.reference_digest,
            **self._ruler(self.extractor),
        )  # fmt: skip

    def _ruler(self, extractor: Extractor) -> dict:
        return {"features": extractor.name, "features_digest": extractor.digest, "dimensions": extractor.dimensions,
                "resized": extractor.resized, "antialiased": extractor.antialiased,
                "reference_statistics": self._statistics(extractor)}  # fmt: skip

    def _measure(self, seen: Observed, subject: str, source: str, protocol: Protocol, conditions: Tensor | None,
                 images: Tensor | None = None, teacher: Tensor | None = None, sampling: Sampling | None = None,
                 fd: Extrapolated | None = None) -> dict[str, Value]:  # fmt: skip
        values: dict[str, Value] = {}

        def put(name: str, value: float, n: int, bounds: Interval | None, **parameters):
            described = protocol.model_copy(update={"metric": name, "parameters": parameters})
            values[name] = Value(value=value, n=n, interval=bounds, protocol=described, subject=subject,
                                 sampling=sampling)  # fmt: skip

        reference = self.reference
        for one, features, known in self._spaces(seen, reference):
            if not np.isfinite(features).all():
                raise NonFinite(f"{subject}: features of the samples are NaN or infinite ({one.name})")
            frechet = fd if one is self.extractor else None
            frechet = frechet or self._frechet(features, known, source, conditions)
            found = self._distances(one, features, known, conditions, frechet)
            for name, (value, bounds, parameters) in found.items():
                described = protocol.model_copy(
                    update={"metric": name.split("@")[0], "parameters": parameters, **self._ruler(one)})
                values[name] = Value(value=value, n=len(features), interval=bounds, protocol=described,
                                     subject=subject, sampling=sampling)  # fmt: skip
        n = len(seen.features)
        asked, known = self._labels_of(conditions)
        shares = manifolds(seen.features[self._spread(n, asked, source)],
                           reference.features[self._spread(len(self.test), known, "reference")],
                           NEIGHBOURS, DENSITY_NEIGHBOURS)  # fmt: skip
        for name, share, k, kind in (
            ("precision", shares.precision, NEIGHBOURS, "binomial"), ("recall", shares.recall, NEIGHBOURS, "binomial"),
            ("density", shares.density, DENSITY_NEIGHBOURS, "normal, given the reference"),
            ("coverage", shares.coverage, DENSITY_NEIGHBOURS, "binomial"),
        ):  # fmt: skip
            put(name, share.value, share.n, share.interval, k=k, points=shares.recall.n, interval=kind)
        labelled = conditions is not None and bool(self.test.num_classes)
        varied = diversity(seen.features, reference.features, *((conditions.numpy(), self._labels.numpy())
                                                                if labelled else ()))  # fmt: skip
        put("diversity", varied.ratio, varied.n, varied.interval, within="classes" if labelled else "everything",
            of="mean distance of two samples, over the reference's", interval="projection, delta method")
        if conditions is not None and seen.classes is not None:
            right = float((seen.classes == conditions.numpy()).mean())
            put("class_accuracy", right, n, wilson(right, n), interval="binomial")
        for suffix, mine, held_out, space in (
            ("", seen.nearest, reference.nearest, "pixels"),
            ("_features", seen.nearest_features, reference.nearest_features, "features"),
        ):
            looked_up = {"images": len(self.train), "held_out": len(held_out), "space": space}
            memory = memorisation(mine, held_out)
            put("nearest_ratio" + suffix, memory.ratio, len(mine), memory.ratio_interval,
                interval="order statistics of both medians", **looked_up)
            put("nearest_share" + suffix, memory.near.value, memory.near.n, memory.near.interval,
                threshold="5 % of held-out", interval="binomial", **looked_up)
        if images is not None and teacher is not None:
            pixels = [to_unit_range(stack).numpy() for stack in (images, teacher)]
            same = agreement(*pixels, None if conditions is None else conditions.numpy())
            put("agreement_rms", same.rms, n, same.rms_interval, units="value range", interval="jackknife")
            put("agreement_correlation", same.correlation, n, same.correlation_interval, interval="jackknife",
                of="deviations from the teacher's mean image" + (" of the class" if conditions is not None else ""))
        return values

    def _spaces(self, seen: Observed, reference: Observed) -> Iterator[tuple[Extractor, np.ndarray, np.ndarray]]:
        yield self.extractor, seen.features, reference.features
        for one in self.more:
            yield one, seen.more[one.name], reference.more[one.name]

    def _frechet(self, features: np.ndarray, reference: np.ndarray, source: str,
                 conditions: Tensor | None) -> Extrapolated:  # fmt: skip
        asked, known = self._labels_of(conditions)
        return frechet_extrapolated(features[self._spread(len(features), asked, source)],
                                    reference[self._spread(len(reference), known, "reference")])  # fmt: skip

    def _labels_of(self, conditions: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        return (conditions, self._labels) if self._strata(conditions) else (None, None)

    def _distances(self, extractor: Extractor, features: np.ndarray, reference: np.ndarray, conditions: Tensor | None,
                   fd: Extrapolated) -> dict[str, tuple[float, Interval | None, dict]]:  # fmt: skip
        """By name (with `@extractor` where it is not the pipeline's own): value, interval, parameters."""
        strata = self._strata(conditions)
        given = {"given": "classes" if strata else "nothing", "interval": "influence of samples and reference"}
        found: dict[str, tuple[float, Interval | None, dict]] = {
            "fd_infinite": (fd.infinite, normal(fd.infinite, fd.infinite_error), {
                "extrapolation": "linear in 1/n", "subsets": "disjoint, whole to eighths, of 20 d samples or more",
                "interval": "jackknife over samples and reference"}),
            "fd": (fd.finite, normal(fd.finite, fd.finite_error), {"interval": "jackknife over samples and reference"}),
            "fd_bias": (frechet_bias(Moments.of(features).covariance, len(features)), None,
                        {"formula": "first order, Gaussian"}),
        }  # fmt: skip
        kid = kernel_distance(features, reference, strata)
        found["kid"] = (kid.value, normal(kid.value, kid.standard_error), {
            **Cubic().described, "estimator": "unbiased, all pairs", **given})  # fmt: skip
        clip = extractor.name.startswith("clip")
        kernel, scale = Gaussian(CMMD_BANDWIDTH if clip else self._bandwidth(reference)), CMMD_SCALE if clip else 1.0
        mmd = kernel_distance(features, reference, strata, kernel)
        found["cmmd" if clip else "mmd"] = (
            scale * mmd.value, normal(scale * mmd.value, scale * mmd.standard_error),
            {**kernel.described, "chosen": "fixed" if clip else "median distance in the reference", "scale": scale,
             "estimator": "unbiased, all pairs", **given})  # fmt: skip
        suffix = "" if extractor is self.extractor else f"@{extractor.name}"
        return {name + suffix: entry for name, entry in found.items()}

    def _bandwidth(self, reference: np.ndarray) -> float:
        return median_bandwidth(reference[self._spread(len(reference), None, "bandwidth")])

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
        """Per class: name, n asked for, share recognised with its interval; where there are enough reference images,
        the MMD to those of the class (a Fréchet distance would want many times as many images as features, and KID's
        kernel grows without bound) and the diversity within it, with theirs. Empty without classes."""
        if conditions is None or seen.classes is None:
            return []
        rows, kernel = [], Gaussian(self._bandwidth(self.reference.features))
        for label, name in enumerate(self.test.class_names):
            asked, known = (conditions == label).numpy(), (self._labels == label).numpy()
            if asked.any():
                share, n = float((seen.classes[asked] == label).mean()), int(asked.sum())
                rows.append({"class": name, "n": n, "reference": int(known.sum()), "accuracy": rounded(share),
                             "interval": _stored(wilson(share, n))})  # fmt: skip
                if min(n, known.sum()) >= 3:
                    features, reference = seen.features[asked], self.reference.features[known]
                    mmd, varied = kernel_distance(features, reference, kernel=kernel), diversity(features, reference)
                    rows[-1] |= {"mmd": rounded(mmd.value),
                                 "mmd_interval": _stored(normal(mmd.value, mmd.standard_error)),
                                 "diversity": rounded(varied.ratio),
                                 "diversity_interval": _stored(varied.interval)}  # fmt: skip
        return rows


def _stored(interval: Interval) -> list[float | None]:
    return [rounded(x) for x in interval]


def _points(images: Tensor) -> np.ndarray:
    return to_unit_range(images).flatten(1).numpy()


def _as_bytes(images: ImageSet) -> Tensor:
    return torch.cat([to_bytes(images.images(rows)) for rows in torch.arange(len(images)).split(_TRAINING_BLOCK)])

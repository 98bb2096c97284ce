"""One protocol for everything that is judged: students, solvers, teacher and real images pass the same examination."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewstep.data.images import ImageSet
from fewstep.data.medium import QUANTISED
from fewstep.data.prompts import PromptTable
from fewstep.diffusion.randomness import derive
from fewstep.metrics.comparison.prompt_contrasts import Asked
from fewstep.metrics.comparison.stratified_order import proportionate
from fewstep.metrics.condition_groups import NONE, Groups, by_class, by_prompt
from fewstep.metrics.distances.frechet import Extrapolated, frechet_extrapolated
from fewstep.metrics.distances.kernel_distance import Estimate, kernel_distance_difference
from fewstep.metrics.distances.kernels import median_bandwidth
from fewstep.metrics.distances.text_alignment import found
from fewstep.metrics.extractors.extractor import Extractor
from fewstep.metrics.extractors.media import SHOWN_FRAMES, even_frames
from fewstep.metrics.figures import (
    Figure,
    Strata,
    accuracy_figures,
    agreement_figures,
    class_figures,
    distance_figures,
    diversity_figures,
    frame_figures,
    manifold_figures,
    memorisation_figures,
    prompt_diversity_figures,
    text_figures,
)
from fewstep.metrics.observed import Observed
from fewstep.metrics.protocol import REAL, REDRAWN, ClassFigures, FrameFigures, Protocol, Sampling, Value
from fewstep.metrics.reference_images import FEWEST, ReferenceImages, all_stored
from fewstep.metrics.sample_plan import NOISE, SamplePlan
from fewstep.util.errors import NonFinite


class Examination:
    """Measures samples under one protocol.

    `plan` says which noise and classes the samples are drawn from, `images` what they are compared with and how images
    are observed; the methods here turn observations into values with their protocol.

    Args:
        extractor: maps images to features.
        test: reference images, at least 24: real ones, or drawn by the teacher (`ImageSet.drawn`).
        train: the images the teacher was trained on, for the memorisation control; of drawn ones further samples,
            and no control.
        samples: number of samples of every model.
        seed: of the sampling noise, the classes asked for and the order of samples.
        batch: images per call of a model or an extractor.
        reference_digest: SHA-256 of the image set that both splits belong to.
        num_classes: of the models that are examined; 0 if they take no class.
        more: further extractors, in whose features the distances are measured as well.
        cache: folder that keeps what was observed in the reference, by content; None keeps nothing.
        shape: of the models' noise; default: the images'.
        prompts: what models are asked for, of its test split; empty or None for models of classes.
        decode: states (N, *shape) of the models → samples (N, …) in about [-1, 1]; None: they are the samples.

    Raises:
        SettingsError: a split has too few images.
    """

    def __init__(self, extractor: Extractor, test: ImageSet, train: ImageSet, *, samples: int, seed: int, batch: int,
                 reference_digest: str, num_classes: int, more: Sequence[Extractor] = (),
                 cache: Path | None = None, shape: tuple[int, ...] | None = None,
                 prompts: PromptTable | None = None, decode: Callable[[Tensor], Tensor] | None = None):  # fmt: skip
        self.prompts = prompts if prompts is not None and len(prompts) else None
        rows = None if self.prompts is None else torch.from_numpy(self.prompts.rows("test"))
        self.plan = SamplePlan(test, samples=samples, seed=seed, batch=batch, num_classes=num_classes, shape=shape,
                               prompts=rows)  # fmt: skip
        self._decode = decode
        self.images = ReferenceImages(extractor, test, train, batch=batch, digest=reference_digest, more=more,
                                      cache=cache)  # fmt: skip

    def decode(self, states: Tensor) -> Tensor:
        """Images (N, C, H, W), or samples of another medium, on the CPU of states (N, *shape) on any device.

        Their numbers lie in order in memory, whatever the order in which an autoencoder makes them."""
        return (states if self._decode is None else self._decode(states)).detach().float().cpu().contiguous()

    @cached_property
    def by_class(self) -> bool:
        """Whether models are measured given the class (or group of prompts): the samples have the reference's, at least
        two of each, in shares that differ from the reference's by less than a fifth, and so can training images."""
        asked, groups = self.groups.of(self.plan.classes), self.groups
        if asked is None or not groups.labelled or min(int(asked.min()), int(groups.reference.min())) < 0:
            return False
        counts = np.array([np.bincount(labels.numpy(), minlength=groups.count) for labels in (asked, groups.reference)])
        counts = counts[:, counts.any(axis=0)]
        shares = counts / counts.sum(axis=1, keepdims=True)
        alike = counts.min() >= 2 and (np.abs(shares[0] / shares[1] - 1) < 0.2).all()
        return bool(alike) and self._floor_rows is not None

    def measure(self, seen: Observed, subject: str, *, conditions: Tensor | None = None, images: Tensor | None = None,
                teacher: Tensor | None = None, sampling: Sampling | None = None,
                fd: Extrapolated | None = None) -> dict[str, Value]:  # fmt: skip
        """All figures of one set of samples.

        Args:
            seen: what was observed in them.
            subject: name in messages and tables.
            conditions: (n,) classes, or rows of prompts, that were asked for; None leaves class accuracy out.
            images: (n, …) stored samples, and
            teacher: the teacher's from the same noise; None leaves agreement out.
            sampling: how the samples were drawn; travels with every value.
            fd: their extrapolated Fréchet distance, where it is known already.

        Returns:
            By name: fd_infinite and fd (extrapolated and plain Fréchet distance), fd_bias, kid, mmd, precision, recall,
            density, coverage, diversity (within a class or prompt, where there are some), class_accuracy (of classes),
            retrieval and text_alignment (of prompts, where an extractor compares with texts), nearest_ratio and
            nearest_share (memorisation, in pixels; with `_features` in feature space; not beside drawn images),
            agreement_rms, agreement_correlation. With further extractors the distances again, as `fd_infinite@NAME`,
            and with CLIP the comparison with texts; of videos as `…@motion` in how features change between frames.

        Raises:
            NonFinite: a feature is NaN or infinite.
        """
        protocol = self._protocol(len(seen.features))
        labels, rows = self.groups.of(conditions), None if self.prompts is None else conditions
        values = self._measure(seen, subject, "samples", protocol, labels, rows, sampling, fd)
        if images is not None and teacher is not None:
            figures = agreement_figures(images, teacher, labels)
            values |= self._values(figures, self.images.extractor, protocol, subject, sampling)
        return values

    def frechet(self, seen: Observed, conditions: Tensor | None) -> Extrapolated:
        """The extrapolated Fréchet distance of samples with its jackknife replicates, which are paired between models
        that were asked for the same samples."""
        return self._frechet(seen.features, self.images.observed.features, "samples", self.groups.of(conditions))

    def floor(self) -> dict[str, Value]:
        """The same for training images in the place of samples: what real images score against real images, or the
        teacher's samples against others of its own.

        As many of them as there are with classes in the reference's proportions, which samples have too. Held-out
        images stand in for the nearest neighbours, as training images would find themselves.
        """
        seen, labels, rows = self._real
        told = "the teacher's own, of other noise" if self.drawn else "none: real images of the train split"
        protocol = self._protocol(len(seen.features)).model_copy(
            update={"noise": told, "conditions": "as they are"})
        return self._measure(seen, self.floor_subject, "train", protocol, labels, rows)

    @property
    def drawn(self) -> str:
        """What the reference images are, in words, where the teacher drew them; empty for real ones."""
        return self.images.test.drawn

    @property
    def rate(self) -> float:
        """Frames of a video, or numbers of a sound, per second; 0 for images."""
        return self.images.test.rate

    @property
    def floor_subject(self) -> str:
        """What the floor is measured of."""
        return REDRAWN if self.drawn else REAL

    def floor_per_class(self) -> list[ClassFigures]:
        """`per_class` of the same real images."""
        seen, labels, rows = self._real
        return self._per_class(seen, labels, rows)

    def per_class(self, seen: Observed, conditions: Tensor | None) -> list[ClassFigures]:
        """Figures of every class, or group of prompts, that was asked for; empty without."""
        return self._per_class(seen, self.groups.of(conditions), None if self.prompts is None else conditions)

    def per_frame(self, seen: Observed) -> list[FrameFigures]:
        """Figures of some frames, by their place in the video; empty for samples without frames."""
        reference = self.images.observed.frames
        if seen.frames is None or reference is None:
            return []
        bandwidth = self._bandwidth(reference[:, 0])
        numbers = even_frames(self.images.test.shape[0], SHOWN_FRAMES).tolist()
        return frame_figures(seen.frames, reference, numbers, bandwidth)

    def floor_per_frame(self) -> list[FrameFigures]:
        """`per_frame` of what the floor is measured of."""
        return self.per_frame(self._real[0])

    def _per_class(self, seen: Observed, labels: Tensor | None, rows: Tensor | None) -> list[ClassFigures]:
        hits = self._hits(seen, rows)
        if labels is None or (seen.classes is None if self.prompts is None else not self.groups.names):
            return []
        reference = self.images.observed
        if hits is not None and len(hits) != len(labels):
            hits = None                                     # real images, some without a caption
        return class_figures(seen, reference, labels.numpy(), self.groups.reference.numpy(), self.groups.names,
                             self._bandwidth(reference.features), hits,
                             None if rows is None else rows.numpy())  # fmt: skip

    def asked(self, seen: tuple[Observed, Observed]) -> Asked:
        """What two models were asked for, and what of it is found in their samples. Only of prompts."""
        rows, shown, groups = self.plan.classes, self.images.test.prompts, self.groups
        labels = torch.full_like(rows, NONE) if not groups.names else groups.of(rows)
        hits = [self._hits(one, rows) for one in seen]
        found = None if hits[0] is None else tuple(hits)
        asked = Asked(rows.numpy(), labels.numpy(), groups.reference.numpy(), groups.names, self.by_class, found,
                      drawn=bool(self.drawn))  # fmt: skip
        if self.drawn:
            return asked
        return replace(asked, real=self._hits(self.images.observed, shown),
                       real_groups=groups.reference[shown >= 0].numpy())

    def paired_kid(self, a: np.ndarray, b: np.ndarray, conditions: Tensor | None) -> Estimate:
        """KID of `a` minus KID of `b`, (n, d) features of two models' samples from the plan's noise and classes.

        Given the classes where `by_class` says so. Negative: a is nearer to the reference.
        """
        return kernel_distance_difference(a, b, self.images.observed.features,
                                          self._strata(self.groups.of(conditions)))  # fmt: skip

    def _measure(self, seen: Observed, subject: str, source: str, protocol: Protocol, labels: Tensor | None,
                 rows: Tensor | None, sampling: Sampling | None = None,
                 fd: Extrapolated | None = None) -> dict[str, Value]:  # fmt: skip
        """All figures but the agreement. `source` names the random order: of samples or of training images; `labels`
        are classes or groups of prompts, `rows` the prompts."""
        own, reference = self.images.extractor, self.images.observed
        values = self._distances(own, seen.features, reference.features, subject, source, protocol, labels,
                                 sampling, fd)  # fmt: skip
        for extractor in self.images.more:
            found = self._distances(extractor, seen.more[extractor.name], reference.more[extractor.name], subject,
                                    source, protocol, labels, sampling)  # fmt: skip
            values |= {f"{name}@{extractor.name}": value for name, value in found.items()}
        for extractor, images, mark in self._embedded(seen) if rows is not None else ():
            told = (rows >= 0).numpy()
            found = text_figures(images[told], self._texts[extractor.name], rows.numpy()[told], self.prompts.texts,
                                 self._retrieval_seed)  # fmt: skip
            values |= {f"{name}{mark}": value for name, value
                       in self._values(found, extractor, protocol, subject, sampling).items()}  # fmt: skip
        asked, known = self._classes_to_spread(labels)
        order = self.plan.shuffled(len(seen.features), asked, source)
        of_reference = self.plan.shuffled(len(self.images.test), known, "reference")
        figures = manifold_figures(seen.features[order], reference.features[of_reference])
        if rows is not None:
            figures |= prompt_diversity_figures(seen.features[rows >= 0], rows[rows >= 0].numpy(), reference.features)
        else:
            labelled = labels is not None and self.groups.labelled
            figures |= diversity_figures(seen.features, reference.features,
                                         (labels.numpy(), self._labels.numpy()) if labelled else None)  # fmt: skip
        if labels is not None and seen.classes is not None:
            figures |= accuracy_figures(seen.classes, labels.numpy())
        if not self.drawn:
            figures |= memorisation_figures(seen, reference, len(self.images.train))
        return values | self._values(figures, own, protocol, subject, sampling)

    def _embedded(self, seen: Observed) -> Iterator[tuple[Extractor, np.ndarray, str]]:
        """Every extractor that compares with texts, its embeddings (n, k) of the images, and what marks its figures."""
        own = self.images.extractor
        if own.texts is not None and seen.embedding is not None:
            yield own, seen.embedding, ""
        for extractor in self.images.more:
            if extractor.texts is not None:
                images = seen.more[extractor.name]
                if extractor.seen:                          # the mean of several, no longer of length 1
                    images = images / np.linalg.norm(images, axis=1, keepdims=True)
                yield extractor, images, f"@{extractor.name}"

    def _hits(self, seen: Observed, rows: Tensor | None) -> np.ndarray | None:
        """(n',) booleans of the n' images with a prompt, by the first extractor that compares with texts."""
        extractor, images, _ = next(self._embedded(seen), (None, None, None)) if rows is not None else (None,) * 3
        if extractor is None:
            return None
        told = (rows >= 0).numpy()
        return found(images[told], self._texts[extractor.name], rows.numpy()[told], self.prompts.texts,
                     self._retrieval_seed)  # fmt: skip

    @cached_property
    def _texts(self) -> dict[str, np.ndarray]:
        """Embeddings (P, k) of all prompts by extractor."""
        some = [one for one in (self.images.extractor, *self.images.more) if one.texts is not None]
        return {one.name: one.texts(self.prompts) for one in some if self.prompts is not None}

    @cached_property
    def _retrieval_seed(self) -> int:
        return derive(self.plan.seed, "evaluation-retrieval") % 2**63

    def _distances(self, extractor: Extractor, features: np.ndarray, reference: np.ndarray, subject: str, source: str,
                   protocol: Protocol, labels: Tensor | None, sampling: Sampling | None,
                   fd: Extrapolated | None = None) -> dict[str, Value]:  # fmt: skip
        """The distances in one extractor's features."""
        if not np.isfinite(features).all():
            raise NonFinite(f"{subject}: features of the samples are NaN or infinite ({extractor.name})")
        fd = fd or self._frechet(features, reference, source, labels)
        bandwidth = None if extractor.name.startswith("clip") else self._bandwidth(reference)
        figures = distance_figures(features, reference, self._strata(labels), fd, bandwidth)
        return self._values(figures, extractor, protocol, subject, sampling)

    def _values(self, figures: Mapping[str, Figure], extractor: Extractor, protocol: Protocol, subject: str,
                sampling: Sampling | None) -> dict[str, Value]:  # fmt: skip
        """The figures with their protocols: metric, parameters and extractor added to what all have in common."""
        ruler = self._ruler(extractor)
        return {
            name: Value(value=figure.value, n=figure.n, interval=figure.interval, subject=subject, sampling=sampling,
                        protocol=protocol.model_copy(update={"metric": name, "parameters": figure.parameters, **ruler}))
            for name, figure in figures.items()
        }

    def _protocol(self, n: int) -> Protocol:
        return Protocol(
            metric="", samples=n, seed=self.plan.seed, noise=NOISE, conditions=self.plan.conditions_told,
            reference=self.drawn or "test split", reference_samples=len(self.images.test),
            reference_digest=self.images.digest, quantised=QUANTISED[self.images.test.medium],
            **self._ruler(self.images.extractor),
        )  # fmt: skip

    def _ruler(self, extractor: Extractor) -> dict:
        """What of the protocol belongs to the extractor."""
        return {"features": extractor.name, "features_digest": extractor.digest, "dimensions": extractor.dimensions,
                "resized": extractor.resized, "antialiased": extractor.antialiased, "seen": extractor.seen,
                "reference_statistics": self.images.statistics(extractor)}  # fmt: skip

    def _frechet(self, features: np.ndarray, reference: np.ndarray, source: str,
                 labels: Tensor | None) -> Extrapolated:  # fmt: skip
        asked, known = self._classes_to_spread(labels)
        return frechet_extrapolated(features[self.plan.shuffled(len(features), asked, source)],
                                    reference[self.plan.shuffled(len(reference), known, "reference")])  # fmt: skip

    def _bandwidth(self, reference: np.ndarray) -> float:
        return median_bandwidth(reference[self.plan.shuffled(len(reference), None, "bandwidth")])

    def _classes_to_spread(self, labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Labels of samples and reference that are spread evenly over the subsets; None where `by_class` says no."""
        return (labels, self._labels) if self.by_class and labels is not None else (None, None)

    def _strata(self, labels: Tensor | None) -> Strata:
        asked, known = self._classes_to_spread(labels)
        return None if asked is None else (asked.numpy(), known.numpy())

    @cached_property
    def groups(self) -> Groups:
        """What samples and reference are compared part by part by."""
        test, train = self.images.test, self.images.train
        if self.prompts is None:
            return by_class(test, train, self.plan.num_classes)
        return by_prompt(self.prompts, test, train)

    @property
    def _labels(self) -> Tensor:
        return self.groups.reference

    @cached_property
    def _floor_rows(self) -> Tensor | None:
        """Training images with the reference's class frequencies; None where there are too few of some class."""
        rows = proportionate(self.groups.train.numpy(), self._labels.numpy(), self.plan.seed,
                             "evaluation-floor")  # fmt: skip
        return None if rows is None or len(rows) < FEWEST else torch.from_numpy(rows)

    @cached_property
    def _real(self) -> tuple[Observed, Tensor | None, Tensor | None]:
        """The training images that stand for samples, their classes or groups, and their prompts."""
        train = self.images.train
        images, labels = all_stored(train), self.groups.train if self.groups.names else None
        rows = None if self.prompts is None else train.prompts
        if self.by_class:
            images, labels = images[self._floor_rows], labels[self._floor_rows]
            rows = None if rows is None else rows[self._floor_rows]
        seen, reference = self.images.observe(images), self.images.observed
        return replace(seen, nearest=reference.nearest, nearest_features=reference.nearest_features), labels, rows

"""The figures of one set of samples: each a number with its interval, its n and the parameters of the metric."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fewstep.data.medium import to_unit_range
from fewstep.metrics.comparison.teacher_agreement import agreement
from fewstep.metrics.distances.diversity import diversity, diversity_within
from fewstep.metrics.distances.frechet import Extrapolated, frechet_bias
from fewstep.metrics.distances.intervals import Interval, normal, wilson
from fewstep.metrics.distances.kernel_distance import kernel_distance
from fewstep.metrics.distances.kernels import Cubic, Gaussian
from fewstep.metrics.distances.moments import Moments
from fewstep.metrics.distances.nearest_neighbours import manifolds, memorisation
from fewstep.metrics.distances.text_alignment import AMONG, mean_by_prompt, share_by_prompt
from fewstep.metrics.distances.text_alignment import found as found_among
from fewstep.metrics.observed import Observed
from fewstep.metrics.protocol import ClassFigures, FrameFigures, rounded

NEIGHBOURS = 3
"""k of precision and recall."""
DENSITY_NEIGHBOURS = 5
"""k of density and coverage."""
CMMD_BANDWIDTH, CMMD_SCALE = 10.0, 1000.0
"""Of CMMD (Jayasumana et al. 2024, arXiv 2401.09603), in normalised CLIP features; the unbiased estimator is ours."""

Strata = tuple[np.ndarray, np.ndarray] | None
"""Classes (n,) of the samples and (m,) of the reference; None where samples are not compared class by class."""


@dataclass(frozen=True)
class Figure:
    """`interval` is the 95 % interval, None for exact numbers; `n` the samples behind the value."""

    value: float
    n: int
    interval: Interval | None
    parameters: dict[str, int | float | str] = field(default_factory=dict)


def distance_figures(features: np.ndarray, reference: np.ndarray, strata: Strata, fd: Extrapolated,
                     bandwidth: float | None) -> dict[str, Figure]:  # fmt: skip
    """fd_infinite, fd, fd_bias, kid and mmd (or cmmd) between features (n, d) and those of the reference (m, d).

    Args:
        strata: classes within which kernel distances are unbiased.
        fd: the extrapolated Fréchet distance of these features.
        bandwidth: of the Gaussian kernel of mmd; None measures cmmd with its own kernel instead.
    """
    n, cmmd = len(features), bandwidth is None
    jackknife = {"interval": "jackknife over samples and reference"}
    common = {"estimator": "unbiased, all pairs", "given": "classes" if strata else "nothing",
              "interval": "influence of samples and reference"}  # fmt: skip
    kid = kernel_distance(features, reference, strata)
    kernel, scale = Gaussian(CMMD_BANDWIDTH if cmmd else bandwidth), CMMD_SCALE if cmmd else 1.0
    mmd = kernel_distance(features, reference, strata, kernel)
    chosen = {"chosen": "fixed" if cmmd else "median distance in the reference", "scale": scale}
    return {
        "fd_infinite": Figure(fd.infinite, n, normal(fd.infinite, fd.infinite_error), {
            "extrapolation": "linear in 1/n", "subsets": "disjoint, whole to eighths, of 20 d samples or more",
            **jackknife}),
        "fd": Figure(fd.finite, n, normal(fd.finite, fd.finite_error), jackknife),
        "fd_bias": Figure(frechet_bias(Moments.of(features).covariance, n), n, None,
                          {"formula": "first order, Gaussian"}),
        "kid": Figure(kid.value, n, normal(kid.value, kid.standard_error), {**Cubic().described, **common}),
        "cmmd" if cmmd else "mmd": Figure(scale * mmd.value, n,
                                          normal(scale * mmd.value, scale * mmd.standard_error),
                                          {**kernel.described, **chosen, **common}),
    }  # fmt: skip


def manifold_figures(features: np.ndarray, reference: np.ndarray) -> dict[str, Figure]:
    """precision, recall, density and coverage of features (n, d) and (m, d), both in random order."""
    shares = manifolds(features, reference, NEIGHBOURS, DENSITY_NEIGHBOURS)
    return {
        name: Figure(share.value, share.n, share.interval, {"k": k, "points": shares.recall.n, "interval": kind})
        for name, share, k, kind in (
            ("precision", shares.precision, NEIGHBOURS, "binomial"), ("recall", shares.recall, NEIGHBOURS, "binomial"),
            ("density", shares.density, DENSITY_NEIGHBOURS, "normal, given the reference"),
            ("coverage", shares.coverage, DENSITY_NEIGHBOURS, "binomial"),
        )
    }  # fmt: skip


def diversity_figures(features: np.ndarray, reference: np.ndarray, labels: Strata) -> dict[str, Figure]:
    """diversity: mean distance of two samples over that of two reference images, within classes where there are."""
    found = diversity(features, reference, *(labels or ()))
    return {"diversity": Figure(found.ratio, found.n, found.interval, {
        "within": "classes" if labels else "everything", "of": "mean distance of two samples, over the reference's",
        "interval": "projection, delta method"})}  # fmt: skip


def prompt_diversity_figures(features: np.ndarray, rows: np.ndarray, reference: np.ndarray) -> dict[str, Figure]:
    """diversity: mean distance of two samples of one prompt (rows (n,)) over that of two reference images; empty where
    no prompt has two samples."""
    found = diversity_within(features, rows, reference)
    return {} if found is None else {"diversity": Figure(found.ratio, found.n, found.interval, {
        "within": "prompts", "of": "mean distance of two samples of a prompt, over that of two reference images",
        "interval": "between prompts, delta method"})}  # fmt: skip


def text_figures(images: np.ndarray, texts: np.ndarray, rows: np.ndarray, names: tuple[str, ...],
                 seed: int) -> dict[str, Figure]:  # fmt: skip
    """text_alignment (mean cosine of image and text) and retrieval (share found among 64) of embeddings (n, k) of
    images and (P, k) of texts, rows (n,) of which the images were asked for."""
    hits = found_among(images, texts, rows, names, seed)
    share, mean = share_by_prompt(hits, rows), mean_by_prompt((images * texts[rows]).sum(1), rows)
    among = min(AMONG, len(set(names)))
    return {"retrieval": Figure(share.value, len(rows), share.interval, {
                "among": among, "prompts": share.prompts, "interval": "binomial, samples of a prompt not independent"}),
            "text_alignment": Figure(mean.value, len(rows), mean.interval, {
                "of": "cosine", "prompts": mean.prompts, "interval": "normal, by prompt"})}  # fmt: skip


def accuracy_figures(recognised: np.ndarray, asked: np.ndarray) -> dict[str, Figure]:
    """class_accuracy: share of samples recognised (n,) as the class that was asked for (n,)."""
    share, n = float((recognised == asked).mean()), len(asked)
    return {"class_accuracy": Figure(share, n, wilson(share, n), {"interval": "binomial"})}


def memorisation_figures(seen: Observed, reference: Observed, training_images: int) -> dict[str, Figure]:
    """nearest_ratio and nearest_share, in pixels and (`_features`) in feature space."""
    figures = {}
    for suffix, near, held_out, space in (
        ("", seen.nearest, reference.nearest, "pixels"),
        ("_features", seen.nearest_features, reference.nearest_features, "features"),
    ):
        common = {"images": training_images, "held_out": len(held_out), "space": space}
        memory = memorisation(near, held_out)
        figures["nearest_ratio" + suffix] = Figure(
            memory.ratio, len(near), memory.ratio_interval,
            {"interval": "order statistics of both medians", **common})  # fmt: skip
        figures["nearest_share" + suffix] = Figure(
            memory.near.value, memory.near.n, memory.near.interval,
            {"threshold": "5 % of held-out", "interval": "binomial", **common})  # fmt: skip
    return figures


def agreement_figures(images: Tensor, teacher: Tensor, asked: Tensor | None) -> dict[str, Figure]:
    """agreement_rms and agreement_correlation of (n, …) stored samples with the teacher's from the same noise."""
    same = agreement(*(to_unit_range(stack).numpy() for stack in (images, teacher)),
                     None if asked is None else asked.numpy())  # fmt: skip
    mean = "deviations from the teacher's mean image" + ("" if asked is None else " of the class")
    n = len(images)
    return {
        "agreement_rms": Figure(same.rms, n, same.rms_interval, {"units": "value range", "interval": "jackknife"}),
        "agreement_correlation": Figure(same.correlation, n, same.correlation_interval,
                                        {"interval": "jackknife", "of": mean}),
    }  # fmt: skip


def class_figures(seen: Observed, reference: Observed, asked: np.ndarray, labels: np.ndarray,
                  names: tuple[str, ...], bandwidth: float, hits: np.ndarray | None = None,
                  prompts: np.ndarray | None = None) -> list[ClassFigures]:  # fmt: skip
    """The figures of every class, or group of prompts, that samples were asked for.

    Distances are MMDs: a Fréchet distance would want many times as many images as features, and KID's kernel grows
    without bound.

    Args:
        seen: the samples, with the classes that the extractor recognises.
        asked: (n,) classes asked for.
        labels: (m,) classes of the reference.
        bandwidth: of the Gaussian kernel.
        hits: (n,) whether a sample's prompt was found among others, and
        prompts: (n,) the prompts; None for classes.
    """
    rows, kernel = [], Gaussian(bandwidth)
    for label, name in enumerate(names):
        mine, known = asked == label, labels == label
        if not mine.any():
            continue
        n, m = int(mine.sum()), int(known.sum())
        more: dict = {}
        if seen.classes is not None:
            share = float((seen.classes[mine] == label).mean())
            more |= {"accuracy": rounded(share), "interval": _rounded(wilson(share, n))}
        if hits is not None:
            found = share_by_prompt(hits[mine], prompts[mine])
            more |= {"retrieval": rounded(found.value), "retrieval_interval": _rounded(found.interval)}
        if min(n, m) >= 3:
            features, images = seen.features[mine], reference.features[known]
            mmd, varied = kernel_distance(features, images, kernel=kernel), diversity(features, images)
            more |= {"mmd": rounded(mmd.value), "mmd_interval": _rounded(normal(mmd.value, mmd.standard_error)),
                     "diversity": rounded(varied.ratio), "diversity_interval": _rounded(varied.interval)}  # fmt: skip
        rows.append(ClassFigures(name=name, n=n, reference=m, **more))
    return rows


def frame_figures(frames: np.ndarray, reference: np.ndarray, numbers: list[int],
                  bandwidth: float) -> list[FrameFigures]:  # fmt: skip
    """The distance of every frame, of features (n, f, d) and (m, f, d), to the same frame of the reference.

    Args:
        numbers: (f,) of the frames, from 0 on.
        bandwidth: of the Gaussian kernel, the same for all, so that the frames can be compared.
    """
    found = []
    for place, number in enumerate(numbers):
        mmd = kernel_distance(frames[:, place], reference[:, place], kernel=Gaussian(bandwidth))
        found.append(FrameFigures(frame=number + 1, n=len(frames), mmd=rounded(mmd.value),
                                  interval=_rounded(normal(mmd.value, mmd.standard_error))))  # fmt: skip
    return found


def _rounded(interval: Interval) -> tuple[float | None, float | None]:
    return rounded(interval[0]), rounded(interval[1])

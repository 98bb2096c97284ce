"""Candidate against champion in every figure that decides promotion, from samples of common noise."""

import numpy as np

from fewstep.metrics.comparison.noninferiority import Contrast, OfReal
from fewstep.metrics.comparison.paired_differences import (
    repeat_difference,
    repeat_radius,
    share_difference,
    share_gap,
)
from fewstep.metrics.distances.kernel_distance import kernel_distance, kernel_distance_difference
from fewstep.metrics.observed import Observed
from fewstep.util.errors import NonFinite, SettingsError

REPEATS = 0.01
"""Share of real pairs of a class that are nearer to each other than what counts as a repeat."""
COPIES = 0.05
"""Share of held-out images that are nearer to a training image than what counts as a copy."""
MARGINS = ("kid", "class_kid", "class_accuracy", "accuracy_in_class", "copies", "repeats", "retrieval",
           "retrieval_in_group")  # fmt: skip


def contrasts(candidate: Observed, champion: Observed, reference: Observed, asked: np.ndarray | None,
              labels: np.ndarray | None, margins: dict[str, float],
              names: tuple[str, ...] = ()) -> list[Contrast]:  # fmt: skip
    """Candidate against champion in every figure, all estimates unbiased and paired by noise.

    * `kid`: unbiased kernel distance to the reference, of all samples and within each class asked for;
    * `class_accuracy`: share recognised as the class asked for, of all samples and of each class;
    * `copies`: share of samples nearer to a training image than all but 5 % of held-out images are, and
    * `repeats`: share of pairs of one class nearer to each other than all but 1 % of real pairs, both only as guards.

    Shares are compared with those of the real images as well. A champion that is recognised more often than real images
    are, or that copies less, has left the distribution, and a candidate need not follow it there.

    Args:
        candidate: observed in its samples, row i from the noise and class of sample i, and
        champion: the same of the champion.
        reference: of held-out real images.
        asked: (n,) classes asked for; None for models without classes, which then count as one class.
        labels: (m,) classes of the reference; None where it has none: class figures are left out.
        margins: by the names in MARGINS.
        names: of the classes.

    Raises:
        SettingsError: the samples are not paired, or there are fewer than 3 of a class.
        NonFinite: a feature is NaN or infinite.
    """
    require_finite(candidate, champion)
    if asked is None or labels is None:
        asked = labels = None
    groups = {} if asked is None else {int(label): np.flatnonzero(asked == label) for label in np.unique(asked)}
    places = {} if labels is None else {label: np.flatnonzero(labels == label) for label in groups}
    poor = [label for label in groups if min(len(groups[label]), len(places[label])) < 3]
    if poor:
        raise SettingsError(f"class {_name(names, poor[0])} has fewer than 3 samples or reference images",
                            hint="more register.samples, or more images in data.split.test")  # fmt: skip
    strata = None if asked is None else (asked, labels)
    found = [contrast_kid(candidate.features, champion.features, reference.features, strata, "", margins["kid"])]
    for label, rows in groups.items():
        found.append(contrast_kid(candidate.features[rows], champion.features[rows], reference.features[places[label]],
                                  None, _name(names, label), margins["class_kid"]))  # fmt: skip
    if asked is not None and candidate.classes is not None and champion.classes is not None:
        wrong, other = candidate.classes != asked, champion.classes != asked
        real = reference.classes != labels
        found.append(contrast_share("class_accuracy", "", wrong, other, real, margins["class_accuracy"]))
        found += [contrast_share("class_accuracy", _name(names, label), wrong[rows], other[rows], real[places[label]],
                         margins["accuracy_in_class"]) for label, rows in groups.items()]  # fmt: skip
    found.append(copies(candidate, champion, reference, margins["copies"]))
    found.append(_repeats(candidate, champion, reference, list(groups.values()), list(places.values()),
                          margins["repeats"]))  # fmt: skip
    return found


def require_finite(*models: Observed) -> None:
    """Raises NonFinite for a feature that is NaN or infinite."""
    if not all(np.isfinite(seen.features).all() for seen in models):
        raise NonFinite("features of the samples are NaN or infinite")


def copies(candidate: Observed, champion: Observed, reference: Observed, margin: float) -> Contrast:
    """The guard against samples that are nearer to a training image than all but 5 % of held-out images are."""
    threshold = np.quantile(reference.nearest, COPIES)
    copied, other, real = (one.nearest < threshold for one in (candidate, champion, reference))
    return contrast_share("copies", "", copied, other, real, margin, guard=True)


def contrast_kid(a, b, reference, strata, group: str, margin: float) -> Contrast:
    """Contrast of the kernel distances of a and b (n, d) to the reference (m, d)."""
    found = kernel_distance_difference(a, b, reference, strata)
    own, other = (kernel_distance(x, reference, strata).value for x in (a, b))
    return Contrast("kid", group, found.value, found.standard_error, len(a), margin, own, other)


def contrast_share(metric: str, group: str, a, b, real, margin: float, guard: bool = False) -> Contrast:
    """Contrast of the shares of bad samples: a candidate's (n,), b champion's (n,), of real images (m,), or None.

    A guard shows the shares themselves, an accuracy the shares of good samples.
    """
    found, of_real = share_difference(a, b), None
    if real is not None:
        mine, theirs = share_gap(a, real), share_gap(b, real)
        figure = mine.second if guard else 1 - mine.second
        of_real = OfReal(figure, mine.value, mine.standard_error, theirs.value, theirs.standard_error)
    shown = (share if guard else 1 - share for share in (found.first, found.second))
    return Contrast(metric, group, found.value, found.standard_error, found.n, margin, *shown, guard, of_real)


def _repeats(candidate: Observed, champion: Observed, reference: Observed, groups: list[np.ndarray],
             places: list[np.ndarray], margin: float) -> Contrast:
    groups = groups or [np.arange(len(candidate.features))]
    radius = repeat_radius(reference.features, places or [np.arange(len(reference.features))], REPEATS)
    found = repeat_difference(candidate.features, champion.features, groups, radius)
    return Contrast("repeats", "", found.value, found.standard_error, found.n, margin, found.first, found.second, True)


def _name(names: tuple[str, ...], label: int) -> str:
    """The class's name, its number where it has none."""
    return names[label] if label < len(names) else str(label)

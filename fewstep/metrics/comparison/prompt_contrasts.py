"""Candidate against champion for models that are asked for prompts, from samples of common noise and prompts."""

from dataclasses import dataclass, replace

import numpy as np

from fewstep.metrics.comparison.contrasts import REPEATS, contrast_kid, contrast_share, copies, require_finite
from fewstep.metrics.comparison.noninferiority import Contrast
from fewstep.metrics.comparison.paired_differences import repeat_difference, repeat_radius
from fewstep.metrics.metric_names import MOTION
from fewstep.metrics.observed import Observed

FEWEST = 3
"""Samples and reference images without which a group has no kernel distance of its own."""


@dataclass(frozen=True)
class Asked:
    """What the samples of both models were asked for, and what of it is found in them.

    Attributes:
        rows: (n,) prompts.
        groups: (n,) labels of their groups, −1 without; reference: (m,) of the real images.
        names: of the groups.
        strata: whether kernel distances are unbiased given the group.
        hits: (n,) of the candidate and of the champion, whether a prompt is found among others; None without an
            extractor that compares with texts.
        real: (m',) the same of real images with a caption, and real_groups: (m',) their labels; None without real
            images, the reference being samples of the teacher.
        drawn: whether it is.
    """

    rows: np.ndarray
    groups: np.ndarray
    reference: np.ndarray
    names: tuple[str, ...] = ()
    strata: bool = False
    hits: tuple[np.ndarray, np.ndarray] | None = None
    real: np.ndarray | None = None
    real_groups: np.ndarray | None = None
    drawn: bool = False


def prompt_contrasts(candidate: Observed, champion: Observed, reference: Observed, asked: Asked,
                     margins: dict[str, float]) -> list[Contrast]:  # fmt: skip
    """Candidate against champion in every figure, all estimates unbiased and paired by noise and prompt.

    * `kid`: unbiased kernel distance to the reference, of all samples and within each group of prompts; of videos also
      `kid@motion`, in how features change between frames: a still video has right frames and does not move;
    * `retrieval`: share of samples whose prompt is found among others, of all and of each group. It is compared with
      that of real images as well, as `contrasts` does with classes: a model that draws the essence of a text is found
      more often than photographs are;
    * `copies` as of classes, where there are real images, and `repeats`: share of pairs of samples of one prompt nearer
      to each other than all but 1 % of all pairs of the reference, both only as guards.

    Raises:
        NonFinite: a feature is NaN or infinite.
    """
    require_finite(candidate, champion)
    strata = (asked.groups, asked.reference) if asked.strata else None
    found = [contrast_kid(candidate.features, champion.features, reference.features, strata, "", margins["kid"])]
    if MOTION in reference.more:
        moved = (one.more[MOTION] for one in (candidate, champion, reference))
        found.append(replace(contrast_kid(*moved, strata, "", margins["kid"]), metric=f"kid@{MOTION}"))
    labels = range(len(asked.names))
    members = {label: np.flatnonzero(asked.groups == label) for label in labels}
    for label, rows in members.items():
        places = np.flatnonzero(asked.reference == label)
        if min(len(rows), len(places)) >= FEWEST:
            found.append(_of_group(contrast_kid(
                candidate.features[rows], champion.features[rows], reference.features[places], None,
                asked.names[label], margins["class_kid"])))  # fmt: skip
    if asked.hits is not None and (asked.drawn or asked.real is not None):
        (mine, theirs), real = (~np.stack(asked.hits)), None if asked.drawn else ~asked.real
        found.append(contrast_share("retrieval", "", mine, theirs, real, margins["retrieval"]))
        for label, rows in members.items():
            shown = None if real is None else real[asked.real_groups == label]
            if len(rows) and (shown is None or len(shown)):
                found.append(_of_group(contrast_share("retrieval", asked.names[label], mine[rows], theirs[rows],
                                                      shown, margins["retrieval_in_group"])))  # fmt: skip
    if not asked.drawn:
        found.append(copies(candidate, champion, reference, margins["copies"]))
    pairs = [rows for rows in (np.flatnonzero(asked.rows == row) for row in np.unique(asked.rows)) if len(rows) >= 2]
    if pairs:
        radius = repeat_radius(reference.features, [np.arange(len(reference.features))], REPEATS)
        same = repeat_difference(candidate.features, champion.features, pairs, radius)
        found.append(Contrast("repeats", "", same.value, same.standard_error, same.n, margins["repeats"], same.first,
                              same.second, True))  # fmt: skip
    return found


def _of_group(found: Contrast) -> Contrast:
    return replace(found, part="group")

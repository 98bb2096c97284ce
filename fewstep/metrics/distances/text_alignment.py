"""Do images show what their prompts say? Cosine of the two embeddings, and the text found among others."""

from dataclasses import dataclass

import numpy as np

from fewstep.metrics.distances.intervals import Interval, normal, wilson
from fewstep.util.errors import SettingsError

AMONG = 64
"""Texts that the own one is found among."""
_ROWS = 512         # of a matrix of similarities at a time: bounds memory


@dataclass(frozen=True)
class Mean:
    """A mean over samples with its 95 % interval, and the number of different prompts behind it."""

    value: float
    interval: Interval
    prompts: int


def found(images: np.ndarray, texts: np.ndarray, rows: np.ndarray, names: tuple[str, ...], seed: int,
          among: int = AMONG) -> np.ndarray:  # fmt: skip
    """(n,) booleans: whether an image's own text is nearer to it than each of among − 1 others (R-precision of Xu et
    al. 2018, arXiv 1711.10485, where it was among 100).

    The others are drawn by (seed, place of the image), of different wording than the own text; all of them where there
    are fewer.

    Args:
        images: (n, d) embeddings of length 1.
        texts: (P, d) embeddings of length 1.
        rows: (n,) in [0, P): the own text of every image.
        names: (P,) the texts, of which equal ones are one.

    Raises:
        SettingsError: there is but one text.
    """
    distinct, first, which = np.unique(np.array(names), return_index=True, return_inverse=True)
    if len(distinct) < 2:
        raise SettingsError("retrieval needs at least two different prompts")
    texts, own = texts[first], which.reshape(-1)[rows]
    source, hits = np.random.default_rng(seed), []
    for start in range(0, len(images), _ROWS):
        some, mine = images[start : start + _ROWS], own[start : start + _ROWS]
        similar = some @ texts.T
        here = np.arange(len(some))
        wanted = similar[here, mine]
        similar[here, mine] = -np.inf
        if among < len(distinct):
            drawn = source.random(similar.shape)
            drawn[here, mine] = np.inf
            others = np.argpartition(drawn, among - 1, axis=1)[:, : among - 1]
            similar = np.take_along_axis(similar, others, axis=1)
        hits.append(wanted > similar.max(axis=1))
    return np.concatenate(hits)


def share_by_prompt(hits: np.ndarray, rows: np.ndarray) -> Mean:
    """Share of (n,) hits. Samples of one prompt resemble each other: the interval is Wilson's for as many independent
    samples as the spread between prompts is worth, at least the number of prompts."""
    share, clusters = float(hits.mean()), len(np.unique(rows))
    error = _clustered_error(hits.astype(np.float64), rows)
    spread = share * (1 - share)
    worth = clusters if spread == 0 else len(hits) if error == 0 else spread / error**2
    return Mean(share, wilson(share, int(min(max(worth, clusters), len(hits)))), clusters)


def mean_by_prompt(values: np.ndarray, rows: np.ndarray) -> Mean:
    """Mean of (n,) values; the interval counts prompts, not samples, as independent."""
    value = float(values.mean())
    return Mean(value, normal(value, _clustered_error(values, rows)), len(np.unique(rows)))


def _clustered_error(values: np.ndarray, rows: np.ndarray) -> float:
    """Standard error of a mean whose residuals are independent between clusters only (Liang and Zeger 1986)."""
    _, cluster = np.unique(rows, return_inverse=True)
    count = int(cluster.max()) + 1
    if count < 2:
        return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    sums = np.bincount(cluster.reshape(-1), weights=values - values.mean(), minlength=count)
    return float((np.square(sums).sum() * count / (count - 1)) ** 0.5 / len(values))

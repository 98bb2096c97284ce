"""Keyed random order in which every contiguous part has the classes in the same proportions as the whole."""

import numpy as np
import torch

from fewstep.diffusion.randomness import Permutation


def mixed(n: int, labels: np.ndarray | None, seed: int, purpose: str) -> np.ndarray:
    """(n,) indices: a keyed shuffle; with labels (n,) each class is spread evenly over it.

    Subsets, groups and blocks of samples are contiguous parts of this order, so none of them has an accidental lack of
    a class (which would be counted as a difference between distributions).
    """
    order = Permutation(n, seed, purpose)(torch.arange(n)).numpy()
    if labels is None:
        return order
    place = np.empty(n)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels[order] == label)
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return order[np.argsort(place, kind="stable")]


def proportionate(labels: np.ndarray, wanted: np.ndarray, seed: int, purpose: str) -> np.ndarray | None:
    """Indices of as many items as possible with classes in the proportions of `wanted` (m,) labels; keyed choice.

    None where a wanted class has fewer than two items here.
    """
    classes, counts = np.unique(wanted, return_counts=True)
    here = np.array([(labels == label).sum() for label in classes])
    share = (here / counts).min()
    keep = np.floor(share * counts + 1e-9).astype(int)
    if keep.min() < 2:
        return None
    order = mixed(len(labels), None, seed, purpose)
    return np.concatenate([order[labels[order] == label][:n] for label, n in zip(classes, keep, strict=True)])

"""Sums of the gradients of a batch's parts, in an order that the number of parts alone decides.

Addition of floating-point numbers is not associative: a sum whose order depended on who computed which part would give
other bits with another number of processes.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Gradients = list[Tensor | None]
"""One entry per parameter; None: the part has no gradient of it."""


T = TypeVar("T")


class OrderedSum(Generic[T]):
    """The sum of items that come one after the other, as a binary tree over their numbers: ((0 + 1) + (2 + 3)) + 4.

    2^j items from a multiple of 2^j on are a subtree, so whoever has summed them may add their sum as one item among
    such sums. At most log2 of their number are held at once.
    """

    def __init__(self, add: Callable[[T, T], T]):
        self._add = add
        self._sums: list[tuple[int, T]] = []

    def take(self, item: T) -> None:
        """Adds the next item, which may be changed in place from then on."""
        level = 0
        while self._sums and self._sums[-1][0] == level:
            item, level = self._add(self._sums.pop()[1], item), level + 1
        self._sums.append((level, item))

    def total(self) -> T:
        """The sum of all items; there must be one."""
        total = self._sums.pop()[1]
        while self._sums:
            total = self._add(self._sums.pop()[1], total)
        return total


@torch.no_grad()
def add_gradients(first: Gradients, second: Gradients) -> Gradients:
    """first + second, in the memory of `first` where it has some; what one of them lacks counts as zeros."""
    return [_added(a, b) for a, b in zip(first, second, strict=True)]


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None:
        return None if b is None else b.add_(0)
    return a.add_(0 if b is None else b)


def sum_in_order(items: Sequence[Tensor]) -> Tensor:
    """The ordered sum of tensors of one shape, which may be changed in place."""
    ordered = OrderedSum(lambda first, second: first.add_(second))
    for item in items:
        ordered.take(item)
    return ordered.total()

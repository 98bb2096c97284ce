"""What was made of the newest tensors, kept for whoever asks for the same again."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor


class NewestTensors:
    """Keeps what `make` made of so many tensors, each known by which it is: a step asks for the noise levels of its own
    times again and again, and each answer is a score of small kernels.

    A tensor that was written to since, or is gone, is another; an answer that was written to is made again. What is
    bound to its surroundings (a graph, a derivative's level, inference mode) is made anew each time.
    """

    def __init__(self, count: int):
        self._count = count
        self._kept: tuple[tuple[weakref.ref, int, Tensor, int], ...] = ()

    def of(self, tensor: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """`make(tensor)`, or what it was."""
        if tensor.is_inference():
            return make(tensor)
        for reference, version, found, made in self._kept:
            if reference() is tensor and version == tensor._version and made == found._version:
                return found
        found = make(tensor)
        if not (found.requires_grad or found.is_inference() or torch._C._functorch.is_functorch_wrapped_tensor(found)):
            self._kept = ((weakref.ref(tensor), tensor._version, found, found._version), *self._kept[: self._count - 1])
        return found

"""What was made of a tensor, kept while it lives for whoever asks for the same again."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class MadeOfTensors:
    """Keeps what `make` made of a tensor and others beside it, each known by which it is: a step asks for the noise
    levels of its own times again and again, and each answer is a score of small kernels.

    A tensor that was written to since is another; an answer that was written to is made again. What is bound to its
    surroundings (a graph, a derivative's level, inference mode) is made anew each time.
    """

    def __init__(self) -> None:
        self._kept = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor, make: Callable[..., Tensor], *beside: Tensor) -> Tensor:
        """`make(tensor, *beside)`, or what it was."""
        asked = (tensor, *beside)
        if any(one.is_inference() for one in asked):
            return make(*asked)
        found, others, versions = self._kept.get(tensor, (None, (), ()))
        if found is not None and versions == _versions(found, *asked) and all(map(_is, others, beside)):
            return found
        found = make(*asked)
        if not (found.requires_grad or found.is_inference() or torch._C._functorch.is_functorch_wrapped_tensor(found)):
            self._kept[tensor] = found, tuple(map(weakref.ref, beside)), _versions(found, *asked)
        return found


def _versions(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in tensors)


def _is(reference: weakref.ref, tensor: Tensor) -> bool:
    return reference() is tensor


_DOUBLES = MadeOfTensors()


def as_double(tensor: Tensor) -> Tensor:
    """The tensor in float64: of the same tensor the same, so that what is made of it is found again."""
    return tensor if tensor.dtype == torch.float64 else _DOUBLES.of(tensor, Tensor.double)

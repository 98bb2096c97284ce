"""Networks whose weights have shapes and no values, so that one of any size can be trained for a step.

What meets such a weight in an operation has no value either; everything else (draws, noise levels, times) is computed
as always.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_WIDE = ("group_norm", "layer_norm", "softmax")
"""What the autocast of a GPU computes in float32, and that of a CPU does not, as far as networks keep its results."""


class FakeWeights:
    """Makes weights without values, all of one world."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def give(self, network: nn.Module) -> nn.Module:
        """The network, in place, with such weights and buffers, in float32, on what passes for the CPU."""
        made: dict[int, nn.Parameter] = {}
        for module in network.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if id(parameter) not in made:
                        made[id(parameter)] = nn.Parameter(self._like(parameter), parameter.requires_grad)
                    module._parameters[name] = made[id(parameter)]
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = self._like(value)
        return network

    def _like(self, tensor: Tensor) -> Tensor:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        with self._mode:
            return torch.empty(tensor.shape, dtype=dtype)


@contextmanager
def without_values(as_on_gpu: bool) -> Iterator[None]:
    """Inside, networks with fake weights can be moved and asked. as_on_gpu: autocast keeps the formats of a GPU."""
    # modules exchange such tensors whole, which fails for those that somebody has looked at
    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.utils.swap_tensors", _take_over))
        for name in _WIDE if as_on_gpu else ():     # what is computed anew in a backward pass is out of a mode's reach
            stack.enter_context(mock.patch.object(functional, name, _in_float32(getattr(functional, name))))
        stack.enter_context(_Answers())
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")   # copying them does
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")    # of a kernel that is not run
        yield


def _take_over(mine: Tensor, other: Tensor) -> None:
    mine.data = other.data


class _Answers(TorchFunctionMode):
    """Answers where code asks for a value that is not there: a number is 0, a condition holds."""

    _VALUES = {Tensor.item: 0, Tensor.__int__: 0, Tensor.__index__: 0, Tensor.__float__: 0.0, Tensor.__bool__: True}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], FakeTensor):
            if func in self._VALUES:
                return self._VALUES[func]
            if func is Tensor.tolist:
                return torch.zeros(args[0].shape).tolist()
        return func(*args, **kwargs)


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, whose tensors are cast where there is autocast."""

    @wraps(function)
    def computed(*args: Any, **kwargs: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tuple(map(_wide, args)), {name: _wide(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    return computed


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value

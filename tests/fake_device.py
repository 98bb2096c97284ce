"""A made-up GPU: tensors on it have shapes and types but no values, and mixing them with tensors of the CPU raises.

So the placement of tensors is tested on a machine without a GPU. What stays on the CPU is computed as always.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class FakeCuda(TorchFunctionMode):
    """Inside, "cuda" is a made-up GPU. Copies from it to the CPU hold zeros; a value that is asked for is 0 (False)."""

    _VALUES = {Tensor.item: 0, Tensor.__int__: 0, Tensor.__float__: 0.0, Tensor.__bool__: False}

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.moved = 0      # tensors copied from the CPU to the GPU
        self._moving = mock.patch.object(nn.Module, "_apply", _moved)

    def __enter__(self) -> FakeCuda:
        self._moving.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._moving.stop()

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        there = bool(args) and isinstance(args[0], Tensor) and args[0].is_cuda
        if there and func in self._VALUES:
            return self._VALUES[func]
        device = kwargs.get("device")
        on_gpu = device is not None and torch.device(device).type == "cuda"
        if func in (torch.as_tensor, torch.tensor) and on_gpu and not there:
            return self._copy(func(*args, **{**kwargs, "device": None}), device)
        if func is Tensor.pin_memory:
            return args[0]
        if there and func is Tensor.copy_:      # from any device
            args[1].expand(args[0].shape)
            return args[0]
        if func in (Tensor.to, Tensor.cpu):
            target, dtype = _target(func, *args, **kwargs)
            if there and target is not None and target.type == "cpu":
                return torch.zeros(args[0].shape, dtype=dtype or args[0].dtype)
            if not there and target is not None and target.type == "cuda":
                return self._copy(args[0], target, dtype)
            if there and target is not None:    # it is there; what moves is refused, as indexing is
                if dtype in (None, args[0].dtype):
                    return args[0]
                args, kwargs = (args[0], dtype), {}
        if func is Tensor.__invert__:
            func = torch.bitwise_not    # the operator is refused as indexing is, see `_index`
        if func is Tensor.__getitem__ and (there or _any_on_gpu(args[1])):
            return self._index(*args)
        if there and func is Tensor.contiguous:     # refused as indexing is, also within a loss
            return self._in_order(args[0])
        if there and func is functional.cross_entropy:
            args = (self._in_order(args[0]), *args[1:])
        if on_gpu or _any_on_gpu((args, kwargs)):
            with self.fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _copy(self, tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        self.moved += 1
        with self.fake:
            return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device)

    def _in_order(self, tensor: Tensor) -> Tensor:
        with self.fake:
            return torch.clone(tensor, memory_format=torch.contiguous_format)

    def _index(self, tensor: Tensor, index: Any) -> Tensor:
        """`tensor[index]`, which a PyTorch without CUDA refuses for tensors on "cuda", even made-up ones."""
        if not tensor.is_cuda:
            raise RuntimeError("indices should be on the same device as the indexed tensor, not on two devices")
        parts = index if isinstance(index, tuple) else (index,)
        plain = tuple(torch.zeros(part.shape, dtype=part.dtype) if isinstance(part, Tensor) else part for part in parts)
        shape = torch.empty(tensor.shape)[plain].shape
        with self.fake:
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


def _moved(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply` that puts new parameters in place: torch's exchanges those without values with what they become,
    which fails on the way back."""
    made: dict[int, nn.Parameter] = {}
    for one in module.modules() if recurse else (module,):
        for name, parameter in one._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    with torch.no_grad():
                        made[id(parameter)] = nn.Parameter(change(parameter), parameter.requires_grad)
                one._parameters[name] = made[id(parameter)]
        one._buffers |= {name: change(value) for name, value in one._buffers.items() if value is not None}
    return module


def _any_on_gpu(values: Any) -> bool:
    return any(isinstance(value, Tensor) and value.is_cuda for value in tree_leaves(values))


def _target(func, tensor: Tensor, *args, **kwargs) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and type that `tensor.to(...)` or `tensor.cpu()` asks for."""
    if func is Tensor.cpu:
        return torch.device("cpu"), None
    if args and isinstance(args[0], Tensor):
        return args[0].device, args[0].dtype
    kwargs.pop("copy", None)
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    return device, dtype

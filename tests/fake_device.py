"""A made-up GPU: tensors on it have shapes and types but no values, and mixing them with tensors of the CPU raises.

So the placement of tensors is tested on a machine without a GPU. What stays on the CPU is computed as always.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class FakeCuda(TorchFunctionMode):
    """Inside, "cuda" is a made-up GPU. Copies from it to the CPU hold zeros; a value that is asked for is 0 (False)."""

    _VALUES = {Tensor.item: 0, Tensor.__int__: 0, Tensor.__float__: 0.0, Tensor.__bool__: False}

    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.moved = 0      # tensors copied from the CPU to the GPU

    def __torch_function__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        there = bool(args) and isinstance(args[0], Tensor) and args[0].is_cuda
        if there and func in self._VALUES:
            return self._VALUES[func]
        device = kwargs.get("device")
        on_gpu = device is not None and torch.device(device).type == "cuda"
        if func in (torch.as_tensor, torch.tensor) and on_gpu and not there:
            return self._copy(func(*args, **{**kwargs, "device": None}), device)
        if func in (Tensor.to, Tensor.cpu):
            target, dtype = _target(func, *args, **kwargs)
            if there and target is not None and target.type == "cpu":
                return torch.zeros(args[0].shape, dtype=dtype or args[0].dtype)
            if not there and target is not None and target.type == "cuda":
                return self._copy(args[0], target, dtype)
        if func is Tensor.__invert__:
            func = torch.bitwise_not    # the operator is refused as indexing is, see `_index`
        if func is Tensor.__getitem__ and (there or _any_on_gpu(args[1])):
            return self._index(*args)
        if on_gpu or _any_on_gpu((args, kwargs)):
            with self.fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _copy(self, tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        self.moved += 1
        with self.fake:
            return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device)

    def _index(self, tensor: Tensor, index: Any) -> Tensor:
        """`tensor[index]`, which a PyTorch without CUDA refuses for tensors on "cuda", even made-up ones."""
        if not tensor.is_cuda:
            raise RuntimeError("indices should be on the same device as the indexed tensor, not on two devices")
        parts = index if isinstance(index, tuple) else (index,)
        plain = tuple(torch.zeros(part.shape, dtype=part.dtype) if isinstance(part, Tensor) else part for part in parts)
        shape = torch.empty(tensor.shape)[plain].shape
        with self.fake:
            return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


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

"""Bytes of the tensors that are alive, and the most there have been: counted as operations return them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Counts the storages of all tensors that operations return while it is entered, with values or without.

    What a kernel takes for itself is not seen.

    Attributes:
        live: bytes now. peak: the most since `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(value for value in tree_leaves(result) if isinstance(value, Tensor))
        return result

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors that were there before; those that others make up are these."""
        for tensor in tensors:
            if is_traceable_wrapper_subclass(tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key not in self._seen:
                self._seen[key] = weakref.ref(storage, lambda _gone, key=key, size=size: self._forget(key, size))
                self.live += size
                self.peak = max(self.peak, self.live)

    def restart(self) -> None:
        """Begins to look for the peak anew."""
        self.peak = self.live

    def _forget(self, key: int, size: int) -> None:
        del self._seen[key]
        self.live -= size


def storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by storage of these tensors, whoever else shares it."""
    return {storage._cdata: storage.nbytes() for storage in (tensor.untyped_storage() for tensor in tensors)}


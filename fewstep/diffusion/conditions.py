"""What a condition is: one integer per sample, and for networks that take more the tensors of that row of a table.

A class is its label; a prompt is the row of the encoded set in which its tensors lie. So terms, samplers and sets speak
of integers only, and the denoiser resolves them for its network. Conditions are checked where they come in, so that a
mistake is named there, not by a bare index error or a NaN from deep within a network.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fewstep.util.errors import SettingsError


@dataclass(frozen=True)
class Condition:
    """A batch of conditions as a network takes them: rows (N,) int64, and by the network's keyword tensors (N, …)."""

    rows: Tensor
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class ConditionTable(Protocol):
    """The tensors of all conditions: rows 0 … count − 1 for what is asked for, then rows that mean no condition.

    Attributes:
        count: rows that a sample may be asked for.
        nulls: (count,) int64, of each such row the one that stands for it without its condition (the negative prompt).
        size: rows in all.
        trained: (n,) int64, rows that networks are trained on, the others being kept for evaluation; None: all.
        sizes: (count,) int64, number of the size of samples that a row is of (`Denoiser.sized`); None: all have one.
    """

    count: int
    nulls: Tensor
    size: int
    trained: Tensor | None
    sizes: Tensor | None

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """Tensors (N, …) of these rows (N,), by keyword, on the device of `rows`."""


class CachedTable(ABC):
    """A table that keeps the newest rows gathered, since all terms of a step ask for the same; see ConditionTable."""

    KEPT = 4

    def __init__(self, nulls: Tensor, size: int, trained: Tensor | None = None, sizes: Tensor | None = None):
        self.nulls, self.count, self.size, self.trained, self.sizes = nulls, len(nulls), size, trained, sizes
        self._newest: list[tuple[weakref.ref, dict[str, Tensor]]] = []

    @abstractmethod
    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """Tensors (N, …) of rows (N,) on the CPU, by keyword, on the CPU."""

    def gather(self, rows: Tensor) -> dict[str, Tensor]:
        """See ConditionTable."""
        for reference, found in self._newest:
            if reference() is rows:
                return found
        found = {name: value.to(rows.device) for name, value in self.read(rows.cpu()).items()}
        self._newest = [(weakref.ref(rows), found), *self._newest[: self.KEPT - 1]]
        return found

    def __deepcopy__(self, memo: dict) -> CachedTable:
        """Itself: the copies of a network share what is never changed."""
        return self


class TensorTable(CachedTable):
    """A table in memory: tensors (size, …) by keyword; the rest as ConditionTable has it."""

    def __init__(self, tensors: Mapping[str, Tensor], nulls: Tensor, trained: Tensor | None = None,
                 sizes: Tensor | None = None):  # fmt: skip
        lengths = {len(value) for value in tensors.values()}
        if len(lengths) > 1 or (lengths and not len(nulls) <= min(lengths)):
            raise SettingsError(f"the fields of a table of conditions have {sorted(lengths)} rows, {len(nulls)} named")
        super().__init__(nulls, lengths.pop() if lengths else len(nulls), trained, sizes)
        self.tensors = dict(tensors)

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """See CachedTable."""
        return {name: value[rows] for name, value in self.tensors.items()}


def joined(conditions: Sequence[Condition]) -> Condition:
    """Batches of conditions, one after the other."""
    names = conditions[0].tensors
    return Condition(
        torch.cat([one.rows for one in conditions]),
        {name: torch.cat([one.tensors[name] for one in conditions]) for name in names},
    )


def require_condition(
    condition: Tensor | None, count: int, classes: int, null: int | None, groups: int = 0, *, wait: bool = True
) -> None:
    """Raises SettingsError unless `condition` is an integer tensor (count,) of 0 … classes − 1 and, if any, `null` and
    the labels of `groups` groups of classes, which follow.

    None stands for the null class; a network without classes (0) takes nothing else. The values of a tensor on a GPU
    are looked at only with `wait`, since that waits for the device.
    """
    if classes == 0 and condition is not None:
        raise SettingsError("this network is unconditional; leave the condition out")
    if condition is None:
        if classes and null is None:
            raise SettingsError(f"this network needs a condition: a class of 0 … {classes - 1} per sample")
        return
    allowed = f"0 … {classes - 1}" + ("" if null is None else f" or {null} for no class")
    if groups:
        allowed += f" or {null + 1} … {null + groups} for groups of classes"
    wanted = f"the condition must be an integer tensor ({count},) of class labels, {allowed}; got"
    if not isinstance(condition, Tensor):
        raise SettingsError(f"{wanted} a {type(condition).__name__}")
    if condition.dtype == torch.bool or condition.is_floating_point() or condition.is_complex():
        raise SettingsError(f"{wanted} {condition.dtype}")
    if condition.shape != (count,):
        raise SettingsError(f"{wanted} shape {tuple(condition.shape)}")
    if wait or condition.device.type == "cpu":
        odd = _unknown(condition, classes, null, groups)
        if len(odd):
            raise SettingsError(f"{wanted} label {int(odd[0])}")


def _unknown(condition: Tensor, classes: int, null: int | None, groups: int) -> Tensor:
    """The labels (n,) that name nothing."""
    odd = (condition < 0) | (condition >= classes)
    return condition[odd if null is None else odd & ((condition < null) | (condition > null + groups))]

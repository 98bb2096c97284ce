"""Arguments of a denoiser that are per sample in another form than tensors (N, …): lists with one tensor for every
sample, and rows that are repeated for every part of a sample, such as a text's for every frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fewstep.diffusion.network_call import LENGTH
from fewstep.families.recording import FirstStep
from fewstep.util.errors import SettingsError


@dataclass(frozen=True)
class CallForms:
    """Which arguments are so.

    listed: keywords that are given a list with one tensor for every sample. repeated: how often every row stands behind
    itself, by keyword.
    """

    listed: tuple[str, ...] = ()
    repeated: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def seen(first: Mapping[str, Any], second: Mapping[str, Any], counts: tuple[int, int]) -> CallForms:
        """Those of two calls by path, for so many samples."""
        listed = tuple(sorted(name for name in _bases(first) & _bases(second)
                              if (len(_items(first, name)), len(_items(second, name))) == counts))  # fmt: skip
        found = {name: (_times(value, counts[0]), _times(second.get(name), counts[1]))
                 for name, value in first.items()}  # fmt: skip
        repeated = {name: one for name, (one, other) in found.items() if one == other and one > 1}
        return CallForms(listed, repeated)

    def of(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """The call with tensors (N, …) in their places: of a list padded with zeros to the longest (N, L, …), beside
        the numbers of rows `name + LENGTH` (N,); of repeated rows each once.

        Raises SettingsError for rows that differ where they were repeated.
        """
        found = dict(call)
        for name in self.listed:
            items = _items(call, name)
            for path in [path for path in call if _base(path) == name]:
                del found[path]
            if items:
                lengths = [len(item) for item in items]
                found[name] = torch.stack([padded(item, max(lengths)) for item in items])
                found[name + LENGTH] = torch.tensor(lengths)
        for name, times in self.repeated.items():
            if name in found:
                rows = found[name].unflatten(0, (-1, times))
                if not torch.equal(rows, rows[:, :1].expand_as(rows)):
                    raise SettingsError(f"the denoiser is given {times} rows of {name!r} for every sample, which are "
                                        "not the same")  # fmt: skip
                found[name] = rows[:, 0]
        return found

    def of_step(self, step: FirstStep) -> FirstStep:
        """The step with its calls in this form."""
        second = None if step.second is None else self.of(step.second)
        return replace(step, calls=[self.of(call) for call in step.calls], second=second)


def padded(rows: Tensor, length: int) -> Tensor:
    """Rows (n, …) with zeros behind them: (length, …)."""
    return pad(rows, (0, 0) * (rows.ndim - 1) + (0, length - len(rows)))


def _times(value: Any, count: int) -> int:
    """How many rows there are for each of `count` samples; 0 where they are not as many for each."""
    return len(value) // count if isinstance(value, Tensor) and value.ndim and len(value) % count == 0 else 0


def _base(path: str) -> str | None:
    """The name before a number: of `x/0` it is x."""
    name, _, number = path.rpartition("/")
    return name if number.isdigit() else None


def _bases(call: Mapping[str, Any]) -> set[str]:
    return {name for path in call if (name := _base(path))}


def _items(call: Mapping[str, Any], name: str) -> list[Tensor]:
    found = {int(path.rpartition("/")[2]): value for path, value in call.items() if _base(path) == name}
    return [found[number] for number in sorted(found)] if all(isinstance(v, Tensor) for v in found.values()) else []

"""Conditions of samples of several sizes in one table: a field whose rows have another shape at each size, such as an
image that the denoiser is given, is stored flat, as long as the longest."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import pad

from fewstep.families.family import Family


class SizedFields:
    """How the conditions of a family are stored; true where any field is stored in another shape than its own."""

    def __init__(self, family: Family):
        each = [family.at(number).fields for number in range(len(family.sizes) + 1)]
        self._fields = family.fields
        self._shapes = {name: [fields[name].shape for fields in each] for name in family.fields
                        if len({fields[name].shape for fields in each}) > 1}  # fmt: skip
        self._lengths = {name: max(map(math.prod, shapes)) for name, shapes in self._shapes.items()}

    def __bool__(self) -> bool:
        return bool(self._shapes)

    def numbers(self, name: str) -> int:
        """How many numbers of this field a row has in the table."""
        return self._lengths.get(name, math.prod(self._fields[name].shape))

    def stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Conditions (N, …) of one size as they are stored."""
        return {name: pad(value.flatten(1), (0, self._lengths[name] - value[0].numel())) if name in self._shapes
                else value for name, value in tensors.items()}  # fmt: skip

    def read(self, stored: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
        """The conditions, of the family's size number `size`, that `stored` made these of."""
        return {name: self._shaped(value, self._shapes[name][size]) if name in self._shapes else value
                for name, value in stored.items()}  # fmt: skip

    @staticmethod
    def _shaped(value: Tensor, shape: tuple[int, ...]) -> Tensor:
        return value[:, : math.prod(shape)].reshape(len(value), *shape)

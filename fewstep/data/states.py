"""Sets of a sampler's states (encoded images) with the rows of their conditions, by split: written by the encode stage,
read in the place of the images by all that trains or compares in states."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.records.record_codec import Record
from fewstep.data.records.record_source import CACHE_BYTES, RecordSource
from fewstep.data.records.sample_order import KeyedOrder
from fewstep.util.errors import CorruptData, SettingsError

STATE, ROW = "state", "row"


class StateSet:
    """States of one split, read through a bounded cache and verified record by record.

    Args:
        shards: files of the split, in order.
        shape: of one state.
        num_classes: rows that conditions may name, or classes; 0 without conditions.
        record_size: states per record.

    Raises:
        CorruptData: a shard or an index is missing or damaged.
    """

    def __init__(self, shards: Sequence[Path], shape: Sequence[int], num_classes: int, record_size: int,
                 cache_bytes: int = CACHE_BYTES):  # fmt: skip
        self.shape, self.num_classes, self.record_size = tuple(shape), num_classes, record_size
        self._shards = list(shards)
        self._source = RecordSource(self._shards, self._prepare, cache_bytes)
        if self._source.records:
            self._source.check_sizes(record_size, self._shards[0].parent)
        self._order: KeyedOrder | None = None

    def _prepare(self, number: int, record: Record) -> dict[str, Tensor]:
        state, row = record.tensors.get(STATE), record.tensors.get(ROW)
        if state is None or row is None or tuple(state.shape[1:]) != self.shape:
            raise CorruptData(f"{self._shards[0].parent}: record {number} holds no states of shape {self.shape}")
        return {STATE: state, ROW: row}

    def __len__(self) -> int:
        return self._source.samples

    def images(self, indices: Tensor | list[int] | None = None) -> Tensor:
        """States (N, *shape) float32 of indices (N,) in 0 … len − 1; None for all, which then all stand in memory."""
        indices = torch.arange(len(self)) if indices is None else torch.as_tensor(indices, dtype=torch.int64)
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= len(self)):
            raise IndexError(f"state {int(indices.min())} … {int(indices.max())} of {len(self)}")
        found = self._source.gather(indices // self.record_size, indices % self.record_size)
        return found[STATE].float() if found else torch.empty((0, *self.shape))

    @property
    def labels(self) -> Tensor:
        """Rows of all conditions, (len,) int64."""
        parts = [self._source.record(number)[ROW] for number in range(self._source.records)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """The states `position … position + size − 1` of training, counted from its start across epochs: x (size,
        *shape) float32, y (size,) int64 rows or None without conditions. Raises CorruptData."""
        if self._order is None:
            if not len(self):
                raise SettingsError("the encoded split is empty; add images or change data.split")
            self._order = KeyedOrder(len(self), self.record_size, self._source.window())
        found = self._source.gather(*self._order.locate(seed, position, size))
        return found[STATE].float(), found[ROW] if self.num_classes else None

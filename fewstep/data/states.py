"""Sets of a sampler's states (encoded images) with the rows of their conditions, by split: written by the encode stage,
read in the place of the images by all that trains or compares in states."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.records.record_codec import Record
from fewstep.data.records.record_source import CACHE_BYTES
from fewstep.data.records.split_samples import SplitSamples
from fewstep.util.errors import CorruptData

STATE, ROW = "state", "row"


class StateSet:
    """States of one split, read through a bounded cache and verified record by record.

    Args:
        folder: of the split. shards: names of its files, in order.
        shape: of one state.
        num_classes: rows that conditions may name, or classes; 0 without conditions.
        samples: in all. record_size: states per record.

    Raises:
        CorruptData: a shard or an index is missing or damaged, or the numbers of states are others.
    """

    def __init__(self, folder: Path, shards: Sequence[str], shape: Sequence[int], num_classes: int, samples: int,
                 record_size: int, cache_bytes: int = CACHE_BYTES):  # fmt: skip
        self.folder, self.shape, self.num_classes = folder, tuple(shape), num_classes
        self._samples = SplitSamples(folder, [folder / name for name in shards], self._prepare, samples, record_size,
                                     cache_bytes)  # fmt: skip

    def _prepare(self, number: int, record: Record) -> dict[str, Tensor]:
        state, row = record.tensors.get(STATE), record.tensors.get(ROW)
        if state is None or row is None or tuple(state.shape[1:]) != self.shape:
            raise CorruptData(f"{self.folder}: record {number} holds no states of shape {self.shape}")
        return {STATE: state, ROW: row}

    def __len__(self) -> int:
        return len(self._samples)

    def images(self, indices: Tensor | list[int] | None = None) -> Tensor:
        """States (N, *shape) float32 of indices (N,) in 0 … len − 1; None for all, which then all stand in memory."""
        found = self._samples.gather(indices)
        return found[STATE].float() if found else torch.empty((0, *self.shape))

    @property
    def labels(self) -> Tensor:
        """Rows of all conditions, (len,) int64."""
        return self._samples.column(ROW)

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """The states `position … position + size − 1` of training, counted from its start across epochs: x (size,
        *shape) float32, y (size,) int64 rows or None without conditions. Raises CorruptData."""
        found = self._samples.batch(seed, position, size)
        return found[STATE].float(), found[ROW] if self.num_classes else None

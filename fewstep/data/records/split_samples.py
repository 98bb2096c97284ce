"""The samples of one split, in records of one size: read by number, by column, or in the keyed order of training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.records.record_codec import Record
from fewstep.data.records.record_source import RecordSource
from fewstep.data.records.sample_order import KeyedOrder
from fewstep.util.errors import CorruptData, SettingsError


class SplitSamples:
    """Reads through a bounded cache and verifies record by record.

    Args:
        folder: of the split, for messages.
        shards: its files, in order.
        prepare, cache_bytes: as RecordSource has them.
        samples: in all; record_size: in each record but the last.

    Raises:
        CorruptData: a shard or an index is missing or damaged, or the numbers of samples are others.
    """

    def __init__(self, folder: Path, shards: Sequence[Path], prepare: Callable[[int, Record], dict[str, Tensor]],
                 samples: int, record_size: int, cache_bytes: int):  # fmt: skip
        self.folder, self.record_size = folder, record_size
        self.source = RecordSource(shards, prepare, cache_bytes)
        if self.source.samples != samples:
            raise CorruptData(f"{folder}: {self.source.samples} samples, expected {samples}")
        if self.source.records:
            self.source.check_sizes(record_size, folder)
        self._order: KeyedOrder | None = None

    def __len__(self) -> int:
        return self.source.samples

    def gather(self, indices: Tensor | list[int] | None) -> dict[str, Tensor]:
        """The prepared tensors (N, …) of samples (N,) of 0 … len − 1; None for all, which then all stand in memory."""
        indices = torch.arange(len(self)) if indices is None else indices
        indices = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= len(self)):
            raise IndexError(f"sample {int(indices.min())} … {int(indices.max())} of {len(self)} in {self.folder}")
        return self.source.gather(indices // self.record_size, indices % self.record_size)

    def column(self, name: str) -> Tensor:
        """One number of every sample, (len,) int64."""
        parts = [self.source.record(number)[name] for number in range(self.source.records)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def batch(self, seed: int, position: int, size: int) -> dict[str, Tensor]:
        """The samples ``position … position + size − 1`` of training, counted from its start across epochs.

        Raises SettingsError for an empty split, CorruptData for a record that differs from its checksum.
        """
        if self._order is None:
            if not len(self):
                raise SettingsError(f"{self.folder}: the split is empty; add images or change data.split")
            self._order = KeyedOrder(len(self), self.record_size, self.source.window())
        return self.source.gather(*self._order.locate(seed, position, size))

"""Random access to the records of several shards, through a cache of bounded size."""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fewstep.data.records.record_codec import Record
from fewstep.data.records.shard_files import ShardReader
from fewstep.data.records.shard_index import ShardIndex, index_path, read_index
from fewstep.util.errors import CorruptData

T = TypeVar("T")
CACHE_BYTES = 256 << 20
"""Decoded records kept in memory by one source."""
LARGEST_WINDOW = 64
_OPEN_SHARDS = 32


class RecordSource:
    """The records of ``shards`` in order, numbered through; each verified whenever it is read from disk.

    Args:
        shards: paths of the shards.
        prepare: pure function from (record number, decoded record) to the tensors that are cached and returned, each
            (N, …).
        cache_bytes: decoded records kept in memory.

    Raises:
        CorruptData: a shard or an index is missing or damaged.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        prepare: Callable[[int, Record], dict[str, Tensor]],
        cache_bytes: int = CACHE_BYTES,
    ):
        self._paths = [Path(path) for path in shards]
        self._prepare = prepare
        self._cache_bytes = cache_bytes
        self._first: list[int] = []
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        self._cache: OrderedDict[int, dict[str, Tensor]] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()
        self.records = 0
        self.samples = 0
        self.indices: list[ShardIndex] = []
        self.record_samples: list[int] = []
        for path in self._paths:
            index = read_index(index_path(path))
            self.indices.append(index)
            self._first.append(self.records)
            self.records += len(index.records)
            self.samples += index.samples
            self.record_samples += [entry.samples for entry in index.records]
            ShardReader(path, index).close()

    def window(self) -> int:
        """How many records fit into half of the cache (1 … 64), if all are as large as the first."""
        if not self.records:
            return 1
        return max(1, min(LARGEST_WINDOW, self._cache_bytes // 2 // max(_size(self.record(0)), 1)))

    def record(self, number: int) -> dict[str, Tensor]:
        """The prepared tensors of record ``number``, from the cache or verified from disk. Raises CorruptData."""
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            tensors = self._prepare(number, self._read(number))
            self._cache[number] = tensors
            self._cached += _size(tensors)
            while self._cached > self._cache_bytes and len(self._cache) > 1:
                self._cached -= _size(self._cache.popitem(last=False)[1])
            return tensors

    def metadata(self, number: int) -> dict:
        """The metadata of record ``number``, verified from disk. Raises CorruptData."""
        with self._lock:
            return dict(self._read(number).metadata)

    def _read(self, number: int) -> Record:
        if not 0 <= number < self.records:
            raise IndexError(f"record {number} of {self.records}")
        shard = bisect_right(self._first, number) - 1
        if shard not in self._open:
            self._open[shard] = ShardReader(self._paths[shard], self.indices[shard])
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(shard)
        return self._open[shard].read(number - self._first[shard])

    def gather(self, records: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Stack the samples at (records[i], rows[i]): every prepared tensor as (N, …).

        Args:
            records: (N,) int64.
            rows: (N,) int64.
        """
        by_record = torch.argsort(records, stable=True)
        numbers, counts = torch.unique_consecutive(records[by_record], return_counts=True)
        parts: dict[str, list[Tensor]] = {}
        for number, of_record in zip(numbers.tolist(), rows[by_record].split(counts.tolist()), strict=True):
            for name, tensor in self.record(number).items():
                parts.setdefault(name, []).append(tensor.index_select(0, of_record))
        back = torch.argsort(by_record)
        return {name: torch.cat(part).index_select(0, back) for name, part in parts.items()}

    def check_sizes(self, record_size: int, path: Path) -> None:
        """CorruptData unless every record but the last holds ``record_size`` samples and the last at most that."""
        if any(count != record_size for count in self.record_samples[:-1]) or self.record_samples[-1] > record_size:
            raise CorruptData(f"{path}: its records do not hold {record_size} samples each")


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())

"""The order of samples in training: a pure function of (seed, epoch, position), in memory that does not grow.

Two levels, so that reading stays local: a keyed permutation of the records, cut into windows of a few records, and
inside each window a keyed permutation of its samples. Every epoch visits every sample exactly once.
"""

import torch
from torch import Tensor

from fewstep.diffusion.randomness import Permutation


class KeyedOrder:
    """Maps positions in training to (record, row).

    All records hold ``record_size`` samples except the last, which holds what is left of ``samples``; that one always
    falls into the last window of an epoch, which keeps the arithmetic in closed form.

    Args:
        samples: number of samples, at least 1.
        record_size: samples per record, at least 1.
        window: records that are mixed with each other, at least 1.
    """

    def __init__(self, samples: int, record_size: int, window: int):
        if samples < 1 or record_size < 1 or window < 1:
            raise ValueError(f"samples {samples}, record size {record_size} and window {window} must be at least 1")
        self.samples = samples
        self.record_size = record_size
        self.window = window
        self.full_records = samples // record_size
        self.windows = max(1, -(-self.full_records // window))
        self._windows: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def locate(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor]:
        """Where the samples ``position … position + size − 1`` of training lie.

        Args:
            seed: of the order.
            position: samples seen before, from the start of training, across epochs; ≥ 0.
            size: how many.

        Returns:
            (records, rows), each (size,) int64.
        """
        records, rows = [], []
        stride = self.window * self.record_size
        while size > 0:
            epoch, within = divmod(position, self.samples)
            window = min(within // stride, self.windows - 1)
            record, row = self._ordered(seed, epoch, window)
            first = within - window * stride
            count = min(size, len(row) - first)
            records.append(record[first : first + count])
            rows.append(row[first : first + count])
            position, size = position + count, size - count
        return torch.cat(records), torch.cat(rows)

    def _ordered(self, seed: int, epoch: int, window: int) -> tuple[Tensor, Tensor]:
        """(records, rows) of all samples of a window in their order; the last two windows are kept."""
        key = (seed, epoch, window)
        if key not in self._windows:
            first = window * self.window * self.record_size
            last = self.samples if window == self.windows - 1 else first + self.window * self.record_size
            places = Permutation(last - first, seed, "order-in-window", epoch, window)(torch.arange(last - first))
            slots = torch.arange(first // self.record_size, -(-last // self.record_size))
            records = self._records(seed, epoch, slots)[torch.div(places, self.record_size, rounding_mode="floor")]
            while len(self._windows) > 1:
                self._windows.pop(next(iter(self._windows)), None)
            self._windows[key] = records, places % self.record_size
        return self._windows[key]

    def _records(self, seed: int, epoch: int, slots: Tensor) -> Tensor:
        """The records at ``slots`` of the epoch; the last, shorter one keeps its place."""
        if self.full_records < 2:
            return slots
        keyed = Permutation(self.full_records, seed, "order-of-records", epoch)
        return torch.where(slots < self.full_records, keyed(slots.clamp(max=self.full_records - 1)), slots)

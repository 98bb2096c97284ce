"""The order of samples in training: a pure function of (seed, epoch, position), in memory that does not grow.

Two levels, so that reading stays local: a keyed permutation of the records, cut into windows of a few records, and
inside each window a keyed permutation of its samples. Every epoch visits every sample exactly once.
"""

import torch
from torch import Tensor

from fewstep.randomness import Permutation


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
        self._keyed: dict[tuple, Permutation] = {}

    def _permutation(self, count: int, seed: int, purpose: str, *indices: int) -> Permutation:
        key = (count, seed, purpose, *indices)
        if key not in self._keyed:
            if len(self._keyed) > 8:
                self._keyed.clear()
            self._keyed[key] = Permutation(count, seed, purpose, *indices)
        return self._keyed[key]

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
        while size > 0:
            epoch, within = divmod(position, self.samples)
            window = min(within // (self.window * self.record_size), self.windows - 1)
            first = window * self.window * self.record_size
            last = self.samples if window == self.windows - 1 else first + self.window * self.record_size
            count = min(size, last - within)
            places = torch.arange(within - first, within - first + count)
            places = self._permutation(last - first, seed, "order-in-window", epoch, window)(places)
            slots = first // self.record_size + torch.div(places, self.record_size, rounding_mode="floor")
            records.append(self._records(seed, epoch, slots))
            rows.append(places % self.record_size)
            position, size = position + count, size - count
        return torch.cat(records), torch.cat(rows)

    def _records(self, seed: int, epoch: int, slots: Tensor) -> Tensor:
        if self.full_records < 2:
            return slots
        whole = slots < self.full_records
        keyed = self._permutation(self.full_records, seed, "order-of-records", epoch)
        return torch.where(whole, keyed(slots.clamp(max=self.full_records - 1)), slots)

"""Reading a set: verified, in keyed order, with memory that does not grow with the set."""

from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.records import KeyedOrder, Record, RecordSource
from fewstep.data.records.record_source import CACHE_BYTES
from fewstep.trajectories import set_description
from fewstep.trajectories.keyed_labels import sample_noise
from fewstep.util.errors import CorruptData, SettingsError


class TrajectorySet:
    """A finished set.

    Attributes:
        fields: what determined its bytes.
        key: hash of that and the backends; equal keys mean equal records.
        count: samples.
        shape: (C, H, W) of a sample.
        num_classes: 0 without conditions.
        seed: of noise and conditions.
    """

    def __init__(self, folder: Path | str, cache_bytes: int = CACHE_BYTES):
        self.folder = Path(folder)
        content = set_description.read(self.folder)
        self.count: int = content["count"]
        self.key: str = content["key"]
        self.fields: dict = content["fields"]
        self._order: KeyedOrder | None = None
        self._times: Tensor | None = None
        if not self.count:
            return
        self.shape: tuple[int, ...] = tuple(self.fields["shape"])
        self.num_classes: int = self.fields["condition"].get("classes", 0)
        self.seed: int = self.fields["seed"]
        self._size: int = self.fields["record_size"]
        shards = [self.folder / shard["name"] for shard in content["shards"]]
        self._source = RecordSource(shards, self._prepare, cache_bytes)
        for path, shard, index in zip(shards, content["shards"], self._source.indices, strict=True):
            if index.sha256 != shard["sha256"]:
                raise CorruptData(f"{path}: not the shard that {set_description.NAME} names")
        self._source.check_sizes(self._size, self.folder)
        if self._source.samples < self.count:
            raise CorruptData(f"{self.folder}: {self._source.samples} samples, expected {self.count}")

    def __len__(self) -> int:
        return self.count

    @property
    def times(self) -> Tensor | None:
        """Times of the stored states on the teacher's process, (S,) float64; None if no states are stored."""
        if self.count and self._times is None:
            self._source.record(0)
        return self._times

    def _prepare(self, number: int, record: Record) -> dict[str, Tensor]:
        expected = torch.arange(number * self._size, (number + 1) * self._size)
        if "index" not in record.tensors or not torch.equal(record.tensors["index"], expected):
            raise CorruptData(f"{self.folder}: record {number} holds other samples than its number says")
        result = {"index": expected, "noise": sample_noise(self.seed, expected, self.shape)}
        for name in ("x", "states"):
            if name in record.tensors:
                result[name] = record.tensors[name].to(torch.float32)
        if self.num_classes:
            result["condition"] = record.tensors["condition"]
        if "times" in record.metadata:
            self._times = torch.tensor(record.metadata["times"], dtype=torch.float64)
        return result

    def _complete(self, found: dict[str, Tensor]) -> dict[str, Tensor | None]:
        result: dict[str, Tensor | None] = {"condition": None, **found}
        if "states" in found:
            result["times"] = self.times
        return result

    def batch(self, seed: int, position: int, size: int) -> dict[str, Tensor | None]:
        """The samples ``position … position + size − 1`` of training, counted from its start across epochs.

        Args:
            seed: of the order.
            position: samples seen before.
            size: N.

        Returns:
            ``index`` (N,) int64, ``noise`` and ``x`` (N, C, H, W) float32 (N(0, I) noise and what the teacher made of
            it), ``condition`` (N,) int64 or None; where states are stored also ``states`` (N, S, C, H, W) and
            ``times`` (S,) float64.

        Raises:
            CorruptData: a record differs from its checksum; the file is named. Nothing of it is handed out.
        """
        if self._order is None:
            if not self.count:
                raise SettingsError(f"{self.folder}: the set is empty: it was made for a recipe that needs none")
            self._order = KeyedOrder(self.count, self._size, self._source.window())
        return self._complete(self._source.gather(*self._order.locate(seed, position, size)))

    def samples(self, indices: Tensor | list[int]) -> dict[str, Tensor | None]:
        """The samples with these indices, as :meth:`batch` gives them. IndexError outside 0 … count − 1."""
        indices = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        if not len(indices) or int(indices.min()) < 0 or int(indices.max()) >= self.count:
            raise IndexError(f"indices must be in 0 … {self.count - 1}")
        return self._complete(self._source.gather(indices // self._size, indices % self._size))


def open_set(folder: Path | str, cache_bytes: int = CACHE_BYTES) -> TrajectorySet:
    """Open a finished set.

    Args:
        folder: of the set.
        cache_bytes: memory for decoded records. It bounds how many records are mixed with each other, so the order of
            :meth:`TrajectorySet.batch` depends on it.

    Raises:
        SettingsError: there is none in ``folder``.
        CorruptData: its description, an index or the size of a shard is wrong; the file is named.
    """
    return TrajectorySet(folder, cache_bytes)

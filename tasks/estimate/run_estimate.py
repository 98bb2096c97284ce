"""The types of what `fewstep estimate` tells. Torch-free."""

from __future__ import annotations

from typing import Any, Literal

from fewstep.training.memory import RoundMemory
from fewstep.util.config import Strict
from tasks.config.schema import Parallel

Device = Literal["gpu", "cpu"]


class SetSize(Strict):
    """A set on disk. bytes: of all of it; of_each: of one of its `count` entries. what: the entries, in words."""

    what: str
    count: int
    of_each: int

    @property
    def bytes(self) -> int:
        """Of all of it, but for what files take beside their tensors."""
        return self.count * self.of_each


class Saving(Strict):
    """What a run would take with these settings (and those of the savings before it) over its own."""

    sets: tuple[str, ...]
    total: int


class RunEstimate(Strict):
    """What a run would take.

    teacher: its folder, or what it is. device: where it is thought to be. devices: how many of these share it, each
    with all networks or, by `parallel`, with rows of them; bytes are those of each. rounds: memory of each. sets: on
    disk. limit: bytes that the device has, where they were given. savings: settings that take less, one after the other
    until the run fits; empty where it fits as it is, or no limit was given.
    """

    recipe: str
    teacher: str
    device: Device
    devices: int = 1
    parallel: Parallel = "replicate"
    batch: int
    precision: str
    rounds: tuple[RoundMemory, ...]
    sets: tuple[SetSize, ...]
    limit: int | None = None
    savings: tuple[Saving, ...] = ()

    @property
    def largest(self) -> RoundMemory:
        """The round that takes most."""
        return max(self.rounds, key=lambda one: one.total)

    @property
    def total(self) -> int:
        """Bytes of the device that the run needs; on a CPU that of what lies apart too, since it is the same memory."""
        return total_of(self.rounds, self.device, self.parallel)

    def plain(self) -> dict[str, Any]:
        """As JSON, with the totals."""
        data = self.model_dump(mode="json") | {"total": self.total, "fits": self.fits}
        for entry, one in zip(data["rounds"], self.rounds, strict=True):
            entry |= {"kinds": one.kinds, "total": one.total}
            if one.shards is not None:
                entry["shards"] |= {"kinds": one.shards.kinds, "total": one.shards.total}
        for entry, one in zip(data["sets"], self.sets, strict=True):
            entry["bytes"] = one.bytes
        return data

    @property
    def fits(self) -> bool:
        """Whether it fits, with the savings where there are some; true without a limit."""
        last = self.savings[-1].total if self.savings else self.total
        return self.limit is None or last <= self.limit


def total_of(rounds: tuple[RoundMemory, ...], device: Device, parallel: Parallel = "replicate") -> int:
    """Bytes that the rounds need of the device."""
    held = [one.shards if parallel == "shard" and one.shards else one for one in rounds]
    return max(one.total + (one.apart if device == "cpu" else 0) for one in held)

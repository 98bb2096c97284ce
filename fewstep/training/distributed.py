"""The processes that train together: each takes its share of the parts of every batch, and the gradients of all parts
are summed by hand, in an order that does not depend on who computed which.

DistributedDataParallel hooks into backward passes of its own wrapper: it knows neither several networks in turns nor
forward-mode derivatives, and the order of its sums depends on the number of processes. Every random number is a
function of (seed, step, sample), so several processes make the same bits as one.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import distributed

from fewstep.training.gradient_sums import Gradients, sum_in_order
from fewstep.util.cores import cores
from fewstep.util.errors import SettingsError

BUCKET = 2**26
"""Gradients, in numbers, that cross the wire at a time: 256 MiB in float32."""
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
"""What carries the tensors of a kind of device from process to process."""


def backends(gpus: bool) -> str:
    """Those of a group whose processes train on GPUs, or on the CPU, as `init_process_group` takes them.

    Figures and objects lie on the CPU in either case; what is asked of all processes by it waits for no GPU.
    """
    return ",".join(f"{device}:{backend}" for device, backend in BACKENDS.items()) if gpus else BACKENDS["cpu"]


def _buckets(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours whose sizes come to at most `most`, or one that is larger alone."""
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > most:
            yield slice(first, place)
            first, total = place, 0
        total += size
    if sizes:
        yield slice(first, len(sizes))


def in_transit(sizes: Sequence[int]) -> int:
    """Numbers that cross the wire at a time of gradients of these sizes."""
    return max((sum(sizes[bucket]) for bucket in _buckets(sizes, BUCKET)), default=0)


@torch.no_grad()
def _filled(gradient: torch.Tensor | None, values: torch.Tensor) -> torch.Tensor:
    """These values, in the memory of `gradient` where there is one."""
    return values.clone() if gradient is None else gradient.copy_(values)


def devices() -> int:
    """On how many devices processes of this machine can train: GPUs, without any the cores."""
    return torch.cuda.device_count() or cores()


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes; `group`: through which `of_each` asks, None: the default one."""

    rank: int = 0
    size: int = 1
    group: distributed.ProcessGroup | None = None

    @staticmethod
    def current() -> "World":
        """The default process group (torch.distributed.init_process_group), or this process alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return World()
        return World(distributed.get_rank(), distributed.get_world_size())

    def apart(self) -> "World":
        """The same processes with ways of their own for what threads ask (`of_each`) while the others compute; all of
        them ask for it at the same time."""
        return self if self.size == 1 else replace(self, group=distributed.new_group(backend=BACKENDS["cpu"]))

    def shares(self, parts: int) -> bool:
        """Whether the processes can share so many parts: each takes 1, 2, 4, … of them, one alone any number."""
        own, rest = divmod(parts, self.size)
        return self.size == 1 or (own > 0 and not rest and own & (own - 1) == 0)

    def rows(self, k: int, passes: int, batch: int) -> slice:
        """What this process takes of a batch in the k-th of its `passes`."""
        size = batch // (passes * self.size)
        first = (self.rank * passes + k) * size
        return slice(first, first + size)

    def sum_gradients(self, own: Gradients, shapes: Sequence[torch.Tensor]) -> Gradients:
        """The sums over the processes of their gradients, one per tensor of `shapes`, None where nobody has one. What
        one has here is written to.

        Each process sums an equal slice of all, in the order of the processes, and the others take it over: what
        crosses the wire is that of a ring, and the order is ours. They go in buckets, so that copies of some are
        held at a time.
        """
        found: Gradients = []
        for bucket in _buckets([like.numel() for like in shapes], BUCKET):
            found += self._sum_bucket(own[bucket], shapes[bucket])
        return found

    def _sum_bucket(self, own: Gradients, shapes: Sequence[torch.Tensor]) -> Gradients:
        sizes = [like.numel() for like in shapes]
        used = sum(sizes) + len(sizes)
        mine = torch.tensor([gradient is not None for gradient in own]).to(shapes[0])
        given = (like.new_zeros(like.numel()) if gradient is None else gradient.flatten()
                 for gradient, like in zip(own, shapes, strict=True))  # fmt: skip
        whole = torch.cat([*given, mine, mine.new_zeros(-used % self.size)])
        theirs = torch.empty_like(whole)
        distributed.all_to_all_single(theirs, whole)
        slice_sum = sum_in_order(theirs.chunk(self.size))
        distributed.all_gather(list(whole.chunk(self.size)), slice_sum)
        *places, known, _ = whole.split([*sizes, len(sizes), len(whole) - used])
        # what is here is in the sum; only whoever lacks one has to wait for the device to hear of the others
        there = [True] * len(own) if all(one is not None for one in own) else known.tolist()
        return [_filled(gradient, place.view_as(like)) if one else None
                for gradient, place, like, one in zip(own, places, shapes, there, strict=True)]

    def average_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """Means over the processes, which have figures of the same names."""
        if self.size == 1 or not figures:
            return figures
        values = torch.tensor([figures[name] for name in sorted(figures)], dtype=torch.float64)
        distributed.all_reduce(values)
        return dict(zip(sorted(figures), (values / self.size).tolist(), strict=True))

    def gathered(self, value: torch.Tensor) -> torch.Tensor:
        """(size,) one number of each process, in their order."""
        found = value.new_empty(self.size)
        distributed.all_gather(list(found.chunk(self.size)), value.reshape(1))
        return found

    def any(self, here: bool) -> bool:
        """Whether it is so in any process; waits for all of them."""
        return any(self.of_each(here))

    def of_each(self, value: Any) -> list[Any]:
        """What each process brings, in their order; waits for all of them."""
        if self.size == 1:
            return [value]
        found = [None] * self.size
        distributed.all_gather_object(found, value, group=self.group)
        return found

    def require_equal(self, what: str, value: Any) -> None:
        """Waits for all processes; SettingsError in each of them if they do not bring the same value."""
        found = self.of_each(value)
        odd = next((rank for rank, other in enumerate(found) if other != found[0]), None)
        if odd is not None:
            raise SettingsError(f"process {odd} of {self.size} differs from process 0 in {what}")

    @contextmanager
    def first_then_others(self) -> Iterator[None]:
        """The body runs in process 0 alone, then in the first process of each other host (LOCAL_RANK, as torchrun has
        it), then in all others: what is made on a disk they find made."""
        local = int(os.environ.get("LOCAL_RANK", self.rank)) if self.rank else 0
        before = 0 if self.rank == 0 else 1 if local == 0 else 2
        for _ in range(before):
            distributed.barrier()
        yield
        if self.size > 1:
            for _ in range(2 - before):
                distributed.barrier()

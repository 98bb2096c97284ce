"""The processes that train together: each takes its share of every batch, and gradients are averaged by hand.

DistributedDataParallel hooks into backward passes of its own wrapper: it knows neither several networks in turns nor
forward-mode derivatives. Every random number is a function of (seed, step, sample), so a run of several processes takes
the same steps as one process, up to the order of summation.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from fewstep.util.errors import SettingsError


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> "World":
        """The default process group (torch.distributed.init_process_group), or this process alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return World()
        return World(distributed.get_rank(), distributed.get_world_size())

    def part(self, k: int, parts: int, batch: int) -> slice:
        """What this process takes of a batch in the k-th of its `parts`."""
        size = batch // (parts * self.size)
        first = (self.rank * parts + k) * size
        return slice(first, first + size)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over the processes, which have gradients of the same parameters."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        pieces = (flat / self.size).split([g.numel() for g in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def average_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """Means over the processes, which have figures of the same names."""
        if self.size == 1 or not figures:
            return figures
        values = torch.tensor([figures[name] for name in sorted(figures)], dtype=torch.float64)
        distributed.all_reduce(values)
        return dict(zip(sorted(figures), (values / self.size).tolist(), strict=True))

    def require_equal(self, what: str, value: Any) -> None:
        """Waits for all processes; SettingsError in each of them if they do not bring the same value."""
        if self.size == 1:
            return
        found = [None] * self.size
        distributed.all_gather_object(found, value)
        odd = next((rank for rank, other in enumerate(found) if other != found[0]), None)
        if odd is not None:
            raise SettingsError(f"process {odd} of {self.size} differs from process 0 in {what}")

    @contextmanager
    def first_then_others(self) -> Iterator[None]:
        """The body runs in process 0 alone, then in all others: what it makes on disk they find made."""
        if self.rank > 0:
            distributed.barrier()
        yield
        if self.rank == 0 and self.size > 1:
            distributed.barrier()


class _Everywhere(torch.autograd.Function):
    """Rows of all processes. Each computes the same loss of all rows and gradients are averaged later, so a row's
    gradient goes to its own process, `size` times."""

    @staticmethod
    def forward(ctx, x: Tensor, world: World) -> Tensor:
        ctx.world, ctx.rows = world, len(x)
        found = [torch.empty_like(x) for _ in range(world.size)]
        distributed.all_gather(found, x.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        first = ctx.world.rank * ctx.rows
        return gradient[first : first + ctx.rows] * ctx.world.size, None


def everywhere(x: Tensor, world: World) -> Tensor:
    """(N, ...) -> (size N, ...): the rows of all processes, for a loss that is no mean over samples."""
    return x if world.size == 1 else _Everywhere.apply(x, world)

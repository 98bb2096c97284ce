"""Which size of samples each step of a round trains on (aspect buckets): a fixed cycle, a function of the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fewstep.data.sized import sets_of

if TYPE_CHECKING:
    from fewstep.diffusion.denoiser import Denoiser

_LENGTH = 64    # of a cycle, beyond the number of sizes: shares are met to so fine a part


@dataclass(frozen=True)
class SizeCycle:
    """Sizes by step, in proportion to how many samples each has.

    All processes and all parts of a batch are at one size in a step, and all roles that take turns see each size before
    the next one's turn. counts: samples by number of size; one without any has no turn. turns: steps until all roles
    have had theirs.
    """

    counts: Sequence[int] = (1,)
    turns: int = 1

    def at(self, step: int) -> tuple[int, int]:
        """Size of step number `step`, and how many steps of that size came before."""
        cycles, turn = divmod(step, self.turns)
        rounds, place = divmod(cycles, len(self._order))
        size = self._order[place]
        before = rounds * self._order.count(size) + self._order[:place].count(size)
        return size, before * self.turns + turn

    @property
    def sizes(self) -> list[int]:
        """The sizes that have turns."""
        return sorted(set(self._order))

    @cached_property
    def _order(self) -> list[int]:
        """Sizes of one cycle, spread evenly, the first one first: each time the size that is furthest behind."""
        held = [k for k, count in enumerate(self.counts) if count]
        if len(held) < 2:
            return held or [0]
        length, total = _LENGTH + len(held), sum(self.counts)
        left = length - len(held)       # each has one turn, the rest goes by the counts
        shares = {k: 1 + left * self.counts[k] / total for k in held}
        used, order = dict.fromkeys(held, 0), []
        for place in range(1, length + 1):
            size = max(held, key=lambda k: (shares[k] * place / length - used[k], -k))
            used[size] += 1
            order.append(size)
        first = order.index(held[0])
        return order[first:] + order[:first]


def size_cycle(denoiser: Denoiser, turns: int, *sources: Any) -> SizeCycle:
    """The cycle of a denoiser's sizes that all sources have samples of; where there are none (None), of those that it
    has conditions of. turns: steps until all roles have had theirs."""
    if denoiser.family is None or not denoiser.family.sizes:
        return SizeCycle()
    numbers = range(len(denoiser.family.sizes) + 1)
    rows = [denoiser.sized(k).trained_rows for k in numbers]
    counts = [1 if some is None else len(some) for some in rows]
    for source in sources:
        if source is not None:
            sets = (*sets_of(source), *(None for _ in numbers))
            counts = [len(sets[k]) if sets[k] is not None and counts[k] else 0 for k in numbers]
    return SizeCycle(counts, turns)

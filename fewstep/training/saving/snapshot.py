"""Copies of a round's tensors in host memory, as they are between two steps."""

from __future__ import annotations

from torch import Tensor

from fewstep.util.host_memory import free_memory

SHARE = 0.5
"""Of the memory that is free on this host a snapshot may take so much: the file's pages pass through the rest."""


class Snapshot:
    """The copy of some named tensors; one at a time, whose memory the next one takes over."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def missing(self, tensors: dict[str, Tensor]) -> int:
        """Bytes that a copy would take beside what the last one has."""
        return sum(value.numel() * value.element_size() for name, value in tensors.items()
                   if not _alike(self._held.get(name), value))  # fmt: skip

    def fits(self, tensors: dict[str, Tensor], copies: int = 1) -> bool:
        """Whether so many processes of this host can take such a copy each."""
        wanted, free = copies * self.missing(tensors), free_memory()
        return free is None or wanted <= SHARE * free

    def take(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The copy, which stays until the next call."""
        held = {name: self._held.get(name) for name in tensors}
        self._held = {}     # what is named no more is given up first
        for name, value in tensors.items():
            value, place = value.detach(), held.pop(name)
            if _alike(place, value):
                place.copy_(value)
            else:
                place = value.to("cpu", copy=True).contiguous()
            self._held[name] = place
        return self._held


def _alike(place: Tensor | None, value: Tensor) -> bool:
    return place is not None and place.shape == value.shape and place.dtype == value.dtype

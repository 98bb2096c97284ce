"""Sets of one kind that hold samples of several sizes: one set for each size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

Set = TypeVar("Set")
FOLDER = "sizes"
"""Below the folder of the first size's set, that of the others."""


class Sized(Generic[Set]):
    """Sets by number of their size among a family's (fewstep.families.family.Family.at); None where a size has none.

    Read as one set it is that of the first size, at which models are judged: `len`, `batch` and all else are its own.
    """

    def __init__(self, sets: Sequence[Set | None]):
        if sets[0] is None:
            raise ValueError("the first size has no set")
        self.sets = tuple(sets)

    def __getattr__(self, name: str) -> Any:
        if name == "sets":      # before it is set, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.sets[0], name)

    def __len__(self) -> int:
        return len(self.sets[0])


def sets_of(source: Any) -> tuple[Any, ...]:
    """The sets of a source by number of size: itself alone where it has samples of one size."""
    return source.sets if isinstance(source, Sized) else (source,)


def by_size(make: Callable[[Any], Any], source: Any) -> Any:
    """What `make` makes of a source; of one of several sizes, of the set of each."""
    if not isinstance(source, Sized):
        return make(source)
    return Sized([None if one is None else make(one) for one in source.sets])


def folder_of_size(folder: Path, size: int) -> Path:
    """Where the set of size number `size` lies: the first in `folder` itself."""
    return folder / FOLDER / str(size) if size else folder

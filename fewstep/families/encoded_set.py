"""The encoded set: the conditions of a teacher as tensors by row, and images as states. Written by the encode stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.prompts import PromptTable
from fewstep.data.records.record_source import RecordSource
from fewstep.data.sized import Sized
from fewstep.data.states import StateSet
from fewstep.diffusion.conditions import CachedTable
from fewstep.diffusion.denoiser import Denoiser
from fewstep.families.family import Family
from fewstep.families.pooled import pooled
from fewstep.families.sized_fields import SizedFields
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData, SettingsError

FORMAT = "fewstep-encoded-1"
DESCRIPTION = "encoded.json"
CONDITIONS, STATES = "conditions", "states"
_ROWS = 256     # of conditions in memory at a time


@dataclass(frozen=True)
class Description:
    """What an encoded set holds.

    family: of the teacher; None for a teacher of pixels, which is given images and classes as they are.
    prompts: texts of the rows that may be asked for, in order; empty where conditions are classes.
    negatives: texts of the null rows, which follow. nulls: of each prompt, its null row.
    groups: of each prompt, the name of its group, or empty. trained: rows of the prompts that networks are trained on,
    the others being kept for evaluation; empty where conditions are classes. record_size: rows and states per record.
    conditions: files of conditions. states: files by split, of states of size number k ≥ 1 by `split@k`. samples:
    states by the same names. sizes: of each prompt, the number of its size among the family's; empty where all have
    one.
    """

    family: dict[str, Any] | None = None
    prompts: Sequence[str] = ()
    negatives: Sequence[str] = ()
    nulls: Sequence[int] = ()
    groups: Sequence[str] = ()
    trained: Sequence[int] = ()
    record_size: int = 1
    conditions: Sequence[str] = ()
    states: Mapping[str, Sequence[str]] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    sizes: Sequence[int] = ()

    def write(self, folder: Path) -> None:
        """Writes it into the folder of the set, which exists once this returns."""
        content = dict(vars(self))
        if not self.sizes:
            del content["sizes"]
        write_checked(folder / DESCRIPTION, FORMAT, content)


def of_size(split: str, number: int) -> str:
    """Name of a split's states of size number `number` among the family's."""
    return f"{split}@{number}" if number else split


def size_of(name: str) -> int:
    """The number that `of_size` made a name of."""
    return int(name.partition("@")[2] or 0)


class EncodedSet:
    """An encode stage's output folder.

    Raises:
        SettingsError: there is none.
        CorruptData: it is damaged.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        try:
            content = read_checked(self.folder / DESCRIPTION, FORMAT)
        except FileNotFoundError as error:
            raise SettingsError(f"{self.folder}: nothing encoded here ({DESCRIPTION} is missing)",
                                hint="run the encode stage first") from error  # fmt: skip
        content.pop("format", None)
        self.description = Description(**content)
        family = self.description.family
        self.family: Family | None = None if family is None else Family.from_dict(family)

    @property
    def prompts(self) -> list[str]:
        """Texts of the rows that may be asked for."""
        return list(self.description.prompts)

    def table(self) -> CachedTable | None:
        """The conditions; None where they are classes, or there are none."""
        return RecordTable(self) if self.description.prompts else None

    def states(self, split: str, size: int = 0) -> StateSet:
        """The states of a split that are of one size. Raises SettingsError where no such images were encoded."""
        name = of_size(split, size)
        shards = self.description.states.get(name)
        if shards is None or self.family is None:
            raise SettingsError(f"{self.folder}: no images of the split {name!r} are encoded")
        count = len(self.description.prompts) or self.family.classes
        return StateSet(self.folder / STATES / name, shards, self.family.at(size).state, count,
                        self.description.samples[name], self.description.record_size)  # fmt: skip

    def sized_states(self, split: str) -> StateSet | Sized[StateSet]:
        """The states of a split, of all sizes."""
        further = range(1, len(self.family.sizes) + 1)
        found = [self.states(split, k) if self.description.samples.get(of_size(split, k)) else None for k in further]
        return Sized((self.states(split), *found)) if any(found) else self.states(split)

    def prompt_table(self) -> PromptTable:
        """The prompts with their groups, splits and embeddings, row by row as the conditions; empty where conditions
        are classes, or there are none. In the splits are those of the family's own size, at which models are judged."""
        table, sizes = PromptTable.read(self.folder), self.description.sizes
        if not sizes:
            return table
        return replace(table, splits={name: tuple(row for row in rows if not sizes[row])
                                      for name, rows in table.splits.items()})  # fmt: skip

    def embedded(self, prompts: PromptTable) -> PromptTable:
        """The prompts of this set's rows with the pooled embedding of every one; without where a family has none."""
        table, order, parts = self.table(), [], []
        for some in torch.arange(len(prompts)).split(_ROWS):
            for rows in [some] if table is None else table.of_one_size(some):
                found = None if table is None else pooled(table.read(rows))
                if found is None:
                    return prompts
                order.append(rows)
                parts.append(found)
        return prompts.embedded(torch.cat(parts)[torch.cat(order).argsort()].numpy()) if parts else prompts

    def given_to(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser with the conditions of this set, if it has some, and its sizes."""
        if self.family is not None and self.family.sizes and not denoiser.family.sizes:     # one that we saved before
            denoiser.family = replace(denoiser.family, sizes=self.family.sizes, own_pixels=self.family.own_pixels)
        table = self.table()
        return denoiser if table is None else denoiser.take(table)


class RecordTable(CachedTable):
    """The conditions of an encoded set, read record by record through a bounded cache."""

    def __init__(self, encoded: EncodedSet):
        described = encoded.description
        size = len(described.prompts) + len(described.negatives)
        trained = torch.tensor(described.trained, dtype=torch.int64) if described.trained else None
        sizes = torch.tensor(described.sizes, dtype=torch.int64) if described.sizes else None
        super().__init__(torch.tensor(described.nulls, dtype=torch.int64), size, trained, sizes)
        folder, self._record_size = encoded.folder / CONDITIONS, described.record_size
        shards = [folder / name for name in described.conditions]
        self._source = RecordSource(shards, lambda _number, record: record.tensors)
        if self._source.samples != self.size:
            raise CorruptData(f"{folder}: {self._source.samples} conditions, expected {self.size}")
        self._source.check_sizes(self._record_size, folder)
        self._fields = SizedFields(encoded.family)
        self._row_sizes = torch.zeros(self.size, dtype=torch.int64)
        if self._fields:    # then every prompt has a null of its own, which is of its size
            self._row_sizes[: self.count] = self._row_sizes[self.nulls] = sizes

    def of_one_size(self, rows: Tensor) -> list[Tensor]:
        """Rows that may be read together, out of these: all, unless sizes have fields of their own."""
        found = [rows[self._row_sizes[rows] == size] for size in self._row_sizes[rows].unique().tolist()]
        return found if self._fields else [rows]

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """See CachedTable; raises ValueError for rows of several sizes that have fields of their own."""
        stored = self._source.gather(rows // self._record_size, rows % self._record_size)
        if not self._fields or not len(rows):
            return stored
        first, last = self._row_sizes[rows].aminmax()
        if first != last:
            raise ValueError(f"conditions of samples of sizes {int(first)} and {int(last)} have no common shape")
        return self._fields.read(stored, int(first))

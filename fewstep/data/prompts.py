"""The prompts of a data set: texts with their groups and splits, in one order that rows of conditions follow.

Written by the shard stage; the encode stage writes it again with an embedding of every row. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fewstep.data.prompt import SPLITS, Prompt, require_prompts, split_of
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_bytes, sha256_file

FORMAT = "fewstep-prompts-1"
DESCRIPTION, EMBEDDINGS = "prompts.json", "prompts.safetensors"

@dataclass(frozen=True)
class PromptTable:
    """Prompts by row, each once.

    Attributes:
        prompts: row r is what condition row r says; null conditions are no rows of this table.
        splits: ascending rows by name of split. A caption stands in the splits of its images, so in several where
            images of several splits have it; a prompt without an image stands in one, by the hash of its text.
        embedding: (P, D) float32, a frozen encoder's pooled embedding of every text; None before it is encoded.
    """

    prompts: tuple[Prompt, ...] = ()
    splits: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: dict.fromkeys(SPLITS, ()))
    embedding: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(prompt.text for prompt in self.prompts)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups in alphabetical order; empty without."""
        return tuple(sorted({prompt.group for prompt in self.prompts if prompt.group is not None}))

    @cached_property
    def group(self) -> np.ndarray:
        """(P,) int64: position in `groups` of each row's group, −1 where it has none."""
        number = {name: place for place, name in enumerate(self.groups)}
        return np.array([number.get(prompt.group, -1) for prompt in self.prompts], dtype=np.int64)

    def rows(self, split: str) -> np.ndarray:
        """(n,) int64: ascending rows of the prompts of a split. Raises SettingsError for an unknown split."""
        if split not in SPLITS:
            raise SettingsError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
        return np.array(self.splits[split], dtype=np.int64)

    def require(self, *splits: str) -> None:
        """Raises SettingsError for a split without a prompt: prompts that students are judged by are not those that
        they were trained on."""
        require_prompts({name: len(self.splits[name]) for name in SPLITS}, splits)

    def embedded(self, embedding: np.ndarray) -> PromptTable:
        """The same table with an embedding (P, D) of its rows.

        Raises:
            CorruptData: not one row per prompt, or not finite; the row is named.
        """
        embedding = np.asarray(embedding, dtype=np.float32)
        if embedding.ndim != 2 or len(embedding) != len(self):
            raise CorruptData(f"embeddings of shape {embedding.shape} do not belong to {len(self)} prompts")
        bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
        if len(bad):
            raise CorruptData(f"the embedding of row {bad[0]} ({self.prompts[bad[0]].text[:60]!r}) is NaN or infinite")
        return replace(self, embedding=embedding)

    def write(self, folder: Path) -> None:
        """Writes prompts.json and, with embeddings, prompts.safetensors; equal tables give equal bytes."""
        content: dict = {
            "text": list(self.texts), "negative": [prompt.negative for prompt in self.prompts],
            "size": [prompt.size and list(prompt.size) for prompt in self.prompts],
            "group": [prompt.group for prompt in self.prompts],
            "splits": {name: list(rows) for name, rows in self.splits.items()}, "embedding": None,
        }  # fmt: skip
        if any(prompt.image for prompt in self.prompts):
            content["image"] = [prompt.image for prompt in self.prompts]
        folder = Path(folder)
        if self.embedding is not None:
            data = save({"embedding": np.ascontiguousarray(self.embedding)})
            write_atomically(folder / EMBEDDINGS, data)
            content["embedding"] = sha256_bytes(data)
        write_checked(folder / DESCRIPTION, FORMAT, content)

    @classmethod
    def read(cls, folder: Path | str) -> PromptTable:
        """What `write` wrote; a folder without prompts has an empty table.

        Raises:
            CorruptData: damaged, or the embeddings are not those that were written; the file is named.
        """
        folder = Path(folder)
        try:
            content = read_checked(folder / DESCRIPTION, FORMAT)
        except FileNotFoundError:
            return cls()
        columns = (content[name] for name in ("text", "negative", "size", "group"))
        images = content.get("image") or [None] * len(content["text"])
        prompts = tuple(Prompt(text, negative, size and (size[0], size[1]), group, image)
                        for text, negative, size, group, image in zip(*columns, images, strict=True))
        table = cls(prompts, {name: tuple(rows) for name, rows in content["splits"].items()})
        if content["embedding"] is None:
            return table
        path = folder / EMBEDDINGS
        try:
            if sha256_file(path) != content["embedding"]:
                raise CorruptData(f"{path}: not the embeddings that {DESCRIPTION} describes")
            return table.embedded(load_file(path)["embedding"])
        except (OSError, SafetensorError, KeyError) as error:
            raise CorruptData(f"{path}: damaged ({error})") from error


class PromptTableBuilder:
    """Collects prompts, each in the place where it first came."""

    def __init__(self) -> None:
        self._rows: dict[Prompt, int] = {}
        self._prompts: list[Prompt] = []
        self._splits: dict[str, set[int]] = {name: set() for name in SPLITS}

    def add(self, prompt: Prompt, split: str) -> int:
        """The row of the prompt, which now stands in this split too.

        The first group that is told of a prompt is its group.
        """
        row = self._rows.setdefault(prompt, len(self._prompts))
        if row == len(self._prompts):
            self._prompts.append(prompt)
        elif self._prompts[row].group is None and prompt.group is not None:
            self._prompts[row] = prompt
        self._splits[split].add(row)
        return row

    def add_all(self, prompts: Iterable[Prompt], shares: Mapping[str, float]) -> None:
        """Prompts without images, each in the split of its text, unless it is there already as a caption."""
        for prompt in prompts:
            if prompt not in self._rows:
                self.add(prompt, split_of(prompt, shares))

    def table(self) -> PromptTable:
        return PromptTable(tuple(self._prompts), {name: tuple(sorted(rows)) for name, rows in self._splits.items()})

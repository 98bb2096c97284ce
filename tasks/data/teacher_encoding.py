"""What a given teacher makes of texts and images: the conditions and states that the encode stage writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.data.images import ImageSet, load_prompts, load_split, sizes_of
from fewstep.data.medium import IMAGES, medium_of
from fewstep.data.prompt import SPLITS, Prompt
from fewstep.data.prompts import PromptTable
from fewstep.data.states import ROW, STATE
from fewstep.families.codec import Codec
from fewstep.families.encoded_set import CONDITIONS, Description, of_size, size_of
from fewstep.families.family import Family
from fewstep.families.parts_placement import AUTOENCODERS, OF_IMAGES, TEXT_ENCODERS, place
from fewstep.families.recorded_conditions import record_conditions, record_nulls
from fewstep.families.recorded_family import record_family
from fewstep.families.sized_fields import SizedFields
from fewstep.teachers.inspection import TeacherInfo
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.util.device import default_device
from fewstep.util.errors import NonFinite, SettingsError
from fewstep.util.pixel_sizes import size_text
from tasks.config.schema import Encode
from tasks.data.encoding_limits import (
    condition_bytes,
    count_truncated,
    require_bytes,
    require_negatives,
    require_own_size,
    state_bytes,
)
from tasks.data.image_conditions import ImageConditions, require_conditions


class TeacherEncoding:
    """Encodes for one teacher, block by block.

    Args:
        info: the teacher's folder.
        shards: output folder of the shard stage: images with captions or classes.
        settings: of the stage.
        seed: of the experiment.
        warn: told what a person should know.
    """

    def __init__(self, info: TeacherInfo, shards: Path, settings: Encode, seed: int, warn: Callable[[str], None]):
        self.settings, self.warn = settings, warn
        self.pipe = load_pipeline(info)
        self.sizes = sizes_of(shards)
        require_own_size(settings, self.sizes)
        self.family: Family = record_family(self.pipe, settings.of_call, self.sizes)
        self._families = [self.family.at(k) for k in range(max(len(self.sizes), 1))]
        self._codecs = [Codec(self.pipe, family) for family in self._families]
        self.codec = self._codecs[0]
        self.images: dict[str, ImageSet] = {of_size(split, k): load_split(shards, split, k)
                                            for k in range(len(self._families)) for split in SPLITS}  # fmt: skip
        self.textual = bool(self.family.fields)
        self.table = load_prompts(shards) if self.textual else PromptTable()
        self.prompts = list(self.table.texts)
        self._fields = SizedFields(self.family)
        wanted = [family.images for family in self._families]
        self.seen = None if self.family.images is None else ImageConditions(self.images, wanted, seed)
        self.negatives = self._negatives() if self._nulls else []
        self._place_of_null = {negative: place for place, negative in enumerate(self.negatives)}
        self.truncated = 0

    def check(self) -> None:
        """Raises SettingsError for texts that are missing or too long, a negative prompt that nothing reads, images of
        a size that the teacher does not make or beside one of videos or sound, and a set above the size allowed."""
        medium = medium_of(self.codec.sample_shape)
        with_images = any(prompt.image for prompt in self.table.prompts)
        require_conditions(self.family.pipeline, self.family.images, with_images)
        if medium != IMAGES and self.seen is None and any(len(images) for images in self.images.values()):
            raise SettingsError(f"{self.family.pipeline} makes {medium}, and the data are images",
                                hint="give its prompts alone: data.prompts, without data.source=raw")  # fmt: skip
        if self.textual and not self.prompts:
            raise SettingsError(
                f"{self.family.pipeline} is conditional on texts, and there are neither prompts nor captions",
                hint="set data.prompts to a file of prompts, or bring them: `fewstep data add prompts.txt`",
            )
        require_negatives(self.settings, self.family, self.table.prompts)
        self._check_sizes()
        if self.textual:
            self.table.require("train", "test")
            if self.sizes and not any(self._size_of(row) == 0 for row in self.table.splits["test"]):
                raise SettingsError(f"no prompt of the test split is of the first of data.sizes, "
                                    f"{size_text(self.sizes[0])}, at which students are judged",
                                    hint="name another size first")  # fmt: skip
        if self.textual and not self._nulls and self._encodes_images:
            bare = sum(int((images.prompts < 0).sum()) for images in self.images.values())
            if bare:
                raise SettingsError(f"{bare} images have no caption; {self.family.pipeline} has no empty condition",
                                    hint="give them captions, or leave them out")  # fmt: skip
        self.truncated = count_truncated(self.pipe, self.family, self.prompts, self.settings.max_truncated_share,
                                         self.warn)  # fmt: skip
        if self._encodes_images:
            for codec, images in self._first_of_sizes():
                codec.encode(images.images([0]).to(self._autoencoder_device()))
        require_bytes(self.bytes, self.settings)

    @property
    def bytes(self) -> int:
        """What the set takes on disk, but for a few hundred bytes per file."""
        counts = self.rows()
        of_rows = counts.pop(CONDITIONS, 0) * condition_bytes(self.family, self.settings)
        return of_rows + sum(count * state_bytes(self._families[size_of(name)], self.settings)
                             for name, count in counts.items())

    def rows(self) -> dict[str, int]:
        """How many there are of each kind: conditions, and states by split and size."""
        found = {CONDITIONS: len(self.prompts) + len(self.negatives)} if self.textual else {}
        if self._encodes_images:
            found |= {split: len(images) for split, images in self.images.items() if len(images)}
        return found

    def block(self, kind: str, first: int, count: int) -> dict[str, Tensor]:
        """The rows `first … first + count − 1` of a kind, on the CPU, in the type they are stored in.

        Raises NonFinite, naming the text or image, for a NaN or an infinite number.
        """
        if kind == CONDITIONS:
            place(self.pipe, default_device(), TEXT_ENCODERS, *(() if self.seen is None else OF_IMAGES))
            rows = range(first, min(first + count, len(self.prompts) + len(self.negatives)))
            batches = [rows[k : k + self.settings.batch] for k in range(0, len(rows), self.settings.batch)]
            parts = [self._conditions(batch) for batch in batches]
            return {name: self._stored(torch.cat([part[name] for part in parts])) for name in parts[0]}
        images, codec = self.images[kind], self._codecs[size_of(kind)]
        device = self._autoencoder_device()
        numbers = torch.arange(first, min(first + count, len(images)))
        states = torch.cat([codec.encode(images.images(some).to(device)).cpu()
                            for some in numbers.split(self.settings.batch)])  # fmt: skip
        odd = [int(numbers[k]) for k in range(len(numbers)) if not torch.isfinite(states[k]).all()]
        if odd:
            raise NonFinite(f"image {images.keys(odd[:1])[0]!r} (number {odd[0]} of {kind}): its state holds NaN or "
                            f"infinite values; {len(odd)} of {len(numbers)} do", role="autoencoder")  # fmt: skip
        return {STATE: self._stored(states), ROW: self._rows_of(images, numbers, size_of(kind))}

    def description(self, record_size: int, conditions: Sequence[str], states: Mapping[str, Sequence[str]],
                    samples: Mapping[str, int]) -> Description:  # fmt: skip
        """What the set holds, given the names of its files."""
        nulls = [self._null_of(row) for row in range(len(self.prompts))]
        return Description(
            family=self.family.to_dict(), prompts=self.prompts, negatives=[text for text, _ in self.negatives],
            nulls=nulls,
            groups=[prompt.group or "" for prompt in self.table.prompts], trained=self.table.splits["train"],
            record_size=record_size, conditions=conditions, states=states, samples=samples,
            sizes=[self._size_of(row) for row in range(len(self.prompts))] if self.sizes else (),
        )  # fmt: skip

    def _negatives(self) -> list[tuple[str, int]]:
        """Texts and sizes of the null rows: of each different one a row; beside images one for every prompt."""
        plain = self.settings.negative_prompt or ""
        found = [(self._negative_of(row), self._size_of(row)) for row in range(len(self.prompts))]
        plains = [(plain, number) for number in range(len(self._families))]
        return found if self.seen is not None else list(dict.fromkeys([*plains, *found]))

    def _negative_of(self, row: int) -> str:
        negative = self.table.prompts[row].negative
        return (self.settings.negative_prompt or "") if negative is None else negative

    def _size_of(self, row: int) -> int:
        """Number of the size that a prompt is asked for in; without a column `size` the first."""
        prompt = self.table.prompts[row]
        if not self.sizes or prompt.size is None:
            return 0
        _require_size(prompt, self.sizes)
        return self.sizes.index(prompt.size)

    def _null_of(self, row: int) -> int:
        """The row that stands for no condition beside a prompt's; itself without guidance."""
        if not self._nulls:
            return row
        if self.seen is not None:
            return len(self.prompts) + row
        return len(self.prompts) + self._place_of_null[self._negative_of(row), self._size_of(row)]

    @property
    def _nulls(self) -> bool:
        return self.textual and self.family.guidance is not None

    @property
    def _encodes_images(self) -> bool:
        made = self.seen is None or medium_of(self.codec.sample_shape) == IMAGES    # else they are conditions alone
        return made and any(len(images) for images in self.images.values())

    def _first_of_sizes(self) -> Iterator[tuple[Codec, ImageSet]]:
        """A codec and images of every size that has some."""
        for number, codec in enumerate(self._codecs):
            found = [images for name, images in self.images.items() if size_of(name) == number and len(images)]
            if found:
                yield codec, found[0]

    def _check_sizes(self) -> None:
        """Raises SettingsError for a prompt that asks for a size that is not the teacher's."""
        sides = [(shape[-2], shape[-1]) for shape in (codec.sample_shape for codec in self._codecs) if len(shape) > 2]
        for prompt in self.table.prompts:
            _require_size(prompt, sides)

    def _conditions(self, rows: range) -> dict[str, Tensor]:
        plain = [row for row in rows if row < len(self.prompts)]
        parts = [self._fields.stored(record_conditions(*self._asked(list(some), size)))
                 for size, some in groupby(plain, self._size_of)]  # fmt: skip
        for row in rows[len(plain) :]:
            beside = row - len(self.prompts)
            negative, size = self.negatives[beside]
            pipe, family, given, count, seeds = self._asked([0 if self.seen is None else beside], size)
            given |= {"negative_prompt": [negative]} if negative else {}
            parts.append(self._fields.stored(record_nulls(pipe, family, given, count, seeds)))
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        for name, value in found.items():
            odd = [row for k, row in enumerate(rows) if not torch.isfinite(value[k].double()).all()]
            if odd:
                text = [*self.prompts, *(text for text, _ in self.negatives)][odd[0]]
                raise NonFinite(f"prompt {text!r}: its {name} holds NaN or infinite values", role="text encoder")
        return found

    def _asked(self, rows: list[int], size: int) -> tuple[Any, Family, dict[str, list[Any]], int, list[int] | None]:
        """What the conditions of these prompts at this size are recorded from."""
        texts: dict[str, list[Any]] = {"prompt": [self.prompts[row] for row in rows]}
        if self.seen is None:
            return self.pipe, self._families[size], texts, len(rows), None
        return self.pipe, self._families[size], texts | self.seen.of(rows), len(rows), self.seen.seeds(rows)

    def _rows_of(self, images: ImageSet, numbers: Tensor, size: int) -> Tensor:
        if not self.textual:
            return images.labels[numbers]
        rows = images.prompts[numbers]      # the plain negative text of each size stands first
        return torch.where(rows < 0, len(self.prompts) + size, rows) if self._nulls else rows

    def _autoencoder_device(self) -> torch.device:
        place(self.pipe, default_device(), *AUTOENCODERS)
        return default_device()

    def _stored(self, value: Tensor) -> Tensor:
        return value.to(getattr(torch, self.settings.dtype)) if value.is_floating_point() else value


def _require_size(prompt: Prompt, known: Sequence[tuple[int, int]]) -> None:
    """Raises SettingsError for a prompt that asks for another size (height, width) than these."""
    if prompt.size is None or prompt.size in known:
        return
    told = ", ".join(map(size_text, known)) or "none"
    raise SettingsError(f"prompt {prompt.text[:60]!r} has the size {size_text(prompt.size)}; samples of this set have "
                        f"{told}",
                        hint="data.sizes lists several, encode.width and encode.height set one for all")  # fmt: skip

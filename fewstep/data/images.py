"""Sets of images in shards, by split: written by the shard stage, read by all later ones. What a teacher of videos or
sound drew is kept in the same way."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewstep.data.medium import Medium, medium_of, stored_type, to_unit_range
from fewstep.data.prompt import SPLITS, Prompt, split_at
from fewstep.data.prompts import PromptTable, PromptTableBuilder
from fewstep.data.records.record_codec import Record
from fewstep.data.records.record_source import CACHE_BYTES
from fewstep.data.records.shard_files import ShardWriter
from fewstep.data.records.split_samples import SplitSamples
from fewstep.data.sized import folder_of_size
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.hashing import canonical_json, sha256_bytes

FORMAT = "fewstep-images-1"
DESCRIPTION = "images.json"


def describe(path: Path) -> dict:
    """The verified content of an ``images.json``.

    Raises:
        SettingsError: there is none.
        CorruptData: it is damaged or of another format.
    """
    try:
        return read_checked(path, FORMAT)
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path.parent}: no images here ({path.name} is missing)", hint="run the shard stage first"
        ) from error


class ImageSet:
    """Images of one split, read through a bounded cache and verified record by record.

    Attributes:
        shape: (C, H, W) of an image; of a video or a sound as fewstep.data.medium has it.
        rate: frames, or numbers of a sound, per second; 0 for images.
        num_classes: number of classes, 0 if the images have none.
        class_names: names in label order.
        drawn: what the images are, in words, where a teacher drew them; empty for real images.
        given: names of the further images that each is asked for with, such as a control or a mask.
    """

    def __init__(self, folder: Path | str, split: str, cache_bytes: int = CACHE_BYTES):
        self.folder = Path(folder)
        if split not in SPLITS:
            raise SettingsError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
        description = describe(self.folder / DESCRIPTION)
        part = description["splits"][split]
        self.split = split
        self.shape: tuple[int, ...] = tuple(description["shape"])
        self.rate: float = description.get("rate", 0.0)
        self.class_names: list[str] = description["class_names"]
        self.num_classes = len(self.class_names)
        self.drawn: str = description.get("drawn", "")
        self.given: tuple[str, ...] = tuple(description.get("given", ()))
        self.record_size: int = description["record_size"]
        shards = [self.folder / split / name for name in part["shards"]]
        self._samples = SplitSamples(self.folder / split, shards, self._prepare, part["samples"], self.record_size,
                                     cache_bytes)  # fmt: skip

    def _prepare(self, number: int, record: Record) -> dict[str, Tensor]:
        image, label = record.tensors.get("image"), record.tensors.get("label")
        if image is None or label is None or image.dtype != stored_type(self.shape) \
                or tuple(image.shape[1:]) != self.shape:  # fmt: skip
            raise CorruptData(f"{self.folder / self.split}: record {number} holds no {self.medium} of {self.shape}")
        prompt = record.tensors.get("prompt", torch.full_like(label, -1))
        given = {name: record.tensors.get(name) for name in self.given}
        if any(one is None or one.shape[2:] != image.shape[2:] for one in given.values()):
            raise CorruptData(f"{self.folder / self.split}: record {number} lacks what its images are asked for with")
        return {"image": image, "label": label, "prompt": prompt, **given}

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def medium(self) -> Medium:
        """What a sample is."""
        return medium_of(self.shape)

    def images(self, indices: Tensor | list[int] | None = None) -> Tensor:
        """Images, or samples of another medium, as float32 (N, *shape) in [−1, 1].

        Args:
            indices: (N,) in 0 … len − 1; None for all, which then all stand in memory.

        Raises:
            CorruptData: a record differs from its checksum; the file is named.
        """
        found = self._samples.gather(indices)
        return to_unit_range(found["image"]) if found else torch.empty((0, *self.shape))

    def further(self, name: str, indices: Tensor | list[int]) -> Tensor:
        """The further images of this name, one of `given`, of images `indices` (N,): (N, 3, H, W) uint8, of masks (N,
        1, H, W). Raises CorruptData as `images` does."""
        return self._samples.gather(indices)[name]

    @property
    def labels(self) -> Tensor:
        """All labels, (len,) int64; −1 where the images have no classes."""
        return self._samples.column("label")

    @property
    def prompts(self) -> Tensor:
        """Row of every image's caption in the table of prompts, (len,) int64; −1 where an image has none."""
        return self._samples.column("prompt")

    @property
    def captions(self) -> list[str | None]:
        """All captions, in the order of the images; None for an image without."""
        found: list[str | None] = []
        for number in range(self._samples.source.records):
            metadata = self._samples.source.metadata(number)
            found += metadata.get("captions") or [None] * len(metadata["keys"])
        return found

    def keys(self, indices: list[int]) -> list[str]:
        """Names of images (indices of 0 … len − 1) where they came from."""
        return [self._samples.source.metadata(k // self.record_size)["keys"][k % self.record_size] for k in indices]

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """The images ``position … position + size − 1`` of training, counted from its start across epochs.

        Returns:
            x: (size, C, H, W) float32 in [−1, 1].
            y: (size,) int64 labels, or None without classes.

        Raises:
            CorruptData: a record differs from its checksum; the file is named.
        """
        found = self._samples.batch(seed, position, size)
        return to_unit_range(found["image"]), found["label"] if self.num_classes else None


def load_prompts(folder: Path | str) -> PromptTable:
    """The prompts of the shard stage's output folder, empty without any; `ImageSet.prompts` are rows of it.

    Raises:
        SettingsError: the folder holds no output of the shard stage.
        CorruptData: it is damaged.
    """
    describe(Path(folder) / DESCRIPTION)
    return PromptTable.read(folder)


def load_split(folder: Path | str, split: str, size: int = 0) -> ImageSet:
    """Open one split ("train", "fit" or "test") of the shard stage's output folder.

    Args:
        folder: of all images.
        split: its name.
        size: number of the images' size in `sizes_of`; 0 where all have one.

    Raises:
        SettingsError: no such split, or the folder holds no images.
        CorruptData: a damaged description, index or shard.
    """
    return ImageSet(folder_of_size(Path(folder), size), split)


def sizes_of(folder: Path | str) -> list[tuple[int, int]]:
    """(height, width) of all sizes that the images of the shard stage's output have; empty where they have one.

    Raises:
        SettingsError: the folder holds no output of the shard stage.
        CorruptData: it is damaged.
    """
    return [(height, width) for height, width in describe(Path(folder) / DESCRIPTION).get("sizes", ())]


def digest_of(image: Tensor) -> str:
    """SHA-256 of the pixels of an image (C, H, W) uint8 and of its shape."""
    head = canonical_json(list(image.shape)).encode()
    return sha256_bytes(head + image.contiguous().numpy().tobytes())


def split_of(image: Tensor, shares: Mapping[str, float]) -> str:
    """The split of an image: a function of its pixels alone, so that duplicates never stand on both sides.

    Args:
        image: (C, H, W) uint8.
        shares: share of each of ``SPLITS``; they add up to 1.
    """
    return split_at(digest_of(image), shares)


class ImageSetWriter:
    """Writes images one by one into shards of their splits, with memory for one record per split.

    Identical calls give identical bytes. ``folder`` should be empty; the set exists once :meth:`finish` returns.

    Args:
        folder: of the set.
        shape, rate, drawn: see ImageSet.
        class_names: names in label order; empty without classes.
        shares: share of each split.
        record_size: images per record.
        records_per_shard: records per file.

        sizes: all sizes of the images, where this is the set of the first of several.
        prompts: where the captions of another set are collected, to whose table this set's belong too.

    Attributes:
        prompts: collects the captions; prompts without images are added to it before `finish`.
    """

    def __init__(
        self,
        folder: Path | str,
        shape: Sequence[int],
        class_names: Sequence[str],
        shares: Mapping[str, float],
        record_size: int = 256,
        records_per_shard: int = 8,
        drawn: str = "",
        rate: float = 0.0,
        sizes: Sequence[tuple[int, int]] = (),
        prompts: PromptTableBuilder | None = None,
    ):
        self.folder, self.sizes = Path(folder), sizes
        self.shape, self.class_names = tuple(shape), list(class_names)
        self.shares, self.record_size, self.records_per_shard = dict(shares), record_size, records_per_shard
        self.drawn, self.rate = drawn, rate
        self.counts = dict.fromkeys(SPLITS, 0)
        self._waiting: dict[str, list[tuple[dict[str, Tensor], int, str, str | None, int]]] = {n: [] for n in SPLITS}
        self._given: set[str] = set()
        self._open: dict[str, ShardWriter] = {}
        self._shards: dict[str, list[str]] = {name: [] for name in SPLITS}
        self._records = dict.fromkeys(SPLITS, 0)
        self._writes_prompts = prompts is None
        self.prompts = prompts or PromptTableBuilder()

    def add(self, image: Tensor, label: int, key: str, caption: Prompt | None = None, split: str = "",
            given: Mapping[str, Tensor] | None = None) -> str:  # fmt: skip
        """Append an image.

        Args:
            image: (C, H, W) uint8, or a sample of another medium in its `stored_type`.
            label: class, −1 without classes.
            key: the image's name where it came from.
            caption: the prompt that it shows, if any.
            split: where it goes; empty: by the hash of its pixels.
            given: further images that it is asked for with, by name, (C, H, W) uint8; every image has the same ones.

        Returns:
            The split it went to.
        """
        if tuple(image.shape) != self.shape or image.dtype != stored_type(self.shape):
            raise ValueError(f"{key}: expected {stored_type(self.shape)} {self.shape}, got {image.dtype} "
                             f"{tuple(image.shape)}")
        split = split or split_of(image, self.shares)
        row = -1 if caption is None else self.prompts.add(caption, split)
        self._given |= set(given or ())
        self._waiting[split].append(({"image": image, **(given or {})}, label, key, caption and caption.text, row))
        self.counts[split] += 1
        if len(self._waiting[split]) == self.record_size:
            self._write_record(split)
        return split

    def _write_record(self, split: str) -> None:
        images, labels, keys, captions, rows = zip(*self._waiting[split], strict=True)
        self._waiting[split] = []
        if split not in self._open:
            name = f"{len(self._shards[split]):05d}.tar"
            self._open[split] = ShardWriter(self.folder / split / name)
            self._shards[split].append(name)
        metadata = {"keys": list(keys)} | ({"captions": list(captions)} if any(captions) else {})
        tensors = {name: torch.stack([image[name] for image in images]) for name in images[0]}
        tensors["label"] = torch.tensor(labels, dtype=torch.int64)
        if any(captions):
            tensors["prompt"] = torch.tensor(rows, dtype=torch.int64)
        self._open[split].add(f"{self._records[split]:08d}", tensors, metadata)
        self._records[split] += 1
        if self._open[split].records == self.records_per_shard:
            self._open.pop(split).close()

    def finish(self) -> dict[str, int]:
        """Write what is left and the description. Returns the number of images per split."""
        for split in SPLITS:
            if self._waiting[split]:
                self._write_record(split)
            if split in self._open:
                self._open.pop(split).close()
        content = {
            "shape": list(self.shape),
            "class_names": self.class_names,
            "record_size": self.record_size,
            "splits": {name: {"samples": self.counts[name], "shards": self._shards[name]} for name in SPLITS},
        }
        if self.drawn:
            content["drawn"] = self.drawn
        if self.rate:
            content["rate"] = self.rate
        if self._given:
            content["given"] = sorted(self._given)
        if self.sizes:
            content["sizes"] = [list(size) for size in self.sizes]
        table = self.prompts.table()
        if len(table) and self._writes_prompts:
            table.write(self.folder)
        write_checked(self.folder / DESCRIPTION, FORMAT, content)
        return dict(self.counts)

    def abort(self) -> None:
        """Remove the unfinished files, after an error."""
        for writer in self._open.values():
            writer.abort()
        self._open.clear()

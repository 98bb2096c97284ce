"""The shard stage: images, from scikit-learn or from data/raw, into verified shards split by the hash of the pixels.
Prompts go into a table: captions in the splits of their images, others split by the hash of the text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from fewstep.data.tables import shown
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError, StageFailed
from fewstep.util.files import write_atomically
from fewstep.util.hashing import sha256_json
from fewstep.util.pixel_sizes import size_of_text, size_text
from tasks.config.schema import Data, Settings
from tasks.data.given_prompts import read_given_prompts
from tasks.data.image_folder import list_images
from tasks.stages.base import Context, Stage

# torch and Pillow are imported in the methods that decode: the graph reads this file

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.data.images import ImageSetWriter
    from fewstep.data.prompts import PromptTableBuilder
    from fewstep.data.records import LooseRecords
    from tasks.data.image_folder import Item
    from tasks.data.image_sources import ImageSource

UNIT = 2048
SHAPE = "fewstep-shape/2"
"""Source images per unit of work: what a kill can cost."""
_NAMED = 20


class Corrupt(Strict):
    """Images that cannot be read: how many, and the names of the first ones; corrupt.json has all, with reasons."""

    count: int
    names: tuple[str, ...]


class ShardResult(Strict):
    """What was made of the images.

    Attributes:
        samples: images in all splits; `splits`: in each.
        shape: channels, height and width.
        classes: number of classes; 0 without.
        corrupt: images that were left out.
        raw: SHA-256 of the files that built-in images come from.
        prompts: different prompts in all, captions included; None without any.
        sizes: images by size, WIDTHxHEIGHT, where there are several.
    """

    samples: int
    splits: dict[str, int]
    shape: tuple[int, int, int]
    classes: int
    corrupt: Corrupt
    raw: dict[str, str]
    prompts: int | None = Field(default=None, exclude_if=lambda prompts: prompts is None)
    sizes: dict[str, int] | None = Field(default=None, exclude_if=lambda sizes: sizes is None)


class ShardStage(Stage[Data, ShardResult]):
    """Images into shards and prompts into a table; a unit is a block of source images that is decoded."""

    name = "shard"
    output = "data/shards"
    settings_type = Data
    outside = ("images", "prompts")
    params = ("seed", "data")
    parallel = True

    def resolve(self, settings: Settings) -> Data:
        data = settings.data    # the file of prompts is known by its content, wherever it lies
        return data if data.prompts is None else data.model_copy(update={"prompts": "given"})

    def check(self, context: Context[Data]) -> None:
        if context.settings.source == "raw":
            if "images" not in context.outside:
                raise SettingsError("data.source is raw, but there are none",
                                    hint="bring them: `fewstep data add PATH`")  # fmt: skip
            list_images(context.outside["images"]).require_usable(context.settings)
        if "prompts" in context.outside:
            read_given_prompts(context.outside["prompts"])

    def units(self, context: Context[Data]) -> list[str]:
        loose, source = _loose(context), _source(context)
        for size in range(len(_shape(context, source)[0])):
            _loose(context, size).sweep()
        done = loose.find()
        blocks, images = [number for number in _blocks(source) if number not in done], len(source.items)
        context.expect(images, images - sum(min(UNIT, images - number * UNIT) for number in blocks))
        return [f"{number:05d}" for number in blocks]

    def run_unit(self, context: Context[Data], unit: str) -> None:
        """Decode one block; images that cannot be read are named in its metadata."""
        import torch  # loads torch

        from fewstep.data.records import encode_record  # loads torch
        from tasks.data.image_decoding import Unreadable

        number, source = int(unit), _source(context)
        sizes, channels = _shape(context, source)
        labels = {name: label for label, name in enumerate(source.classes)}
        found: list[list[tuple[Item, dict[str, Tensor]]]] = [[] for _ in sizes]
        corrupt: list[dict[str, str]] = []
        items = source.items[number * UNIT : (number + 1) * UNIT]
        for item in items:
            try:
                image, size = source.decode(item, sizes, channels)
                found[size].append((item, {"image": image, **source.given(item, sizes[size])}))
            except Unreadable as error:
                corrupt.append({"name": item.name, "reason": str(error)})
        for size in reversed(range(len(sizes))):    # a block is done once the record of the first size is there
            if not found[size] and size:
                continue
            metadata = {"corrupt": [] if size else corrupt, "keys": [item.name for item, _ in found[size]]}
            # a record holds at least one sample: one blank, which finish leaves out, where there is none
            images = [image for _, image in found[size]] or [
                {"image": torch.zeros((channels, *sizes[0]), dtype=torch.uint8)}]  # fmt: skip
            tensors = {name: torch.stack([image[name] for image in images]) for name in images[0]}
            label = torch.tensor([labels.get(item.label, -1) for item, _ in found[size]] or [-1], dtype=torch.int64)
            _loose(context, size).write(number, encode_record({**tensors, "label": label}, metadata))
        context.advance(len(items))

    def finish(self, context: Context[Data]) -> ShardResult:
        """Split and write the shards. StageFailed if too many images are corrupt or a split stays empty."""
        from fewstep.data.images import SPLITS, load_prompts  # loads torch

        settings, source = context.settings, _source(context)
        sizes, channels = _shape(context, source)
        total, split = len(source.items), settings.split.model_dump()
        shutil.rmtree(context.out)  # what a killed finish left
        context.out.mkdir()
        writers = _writers(context, source)
        corrupt: list[dict[str, str]] = []
        found: dict[str, set[int]] = {name: set() for name in SPLITS}
        try:
            for size, writer in enumerate(writers):
                corrupt += _add_images(context, source, writer, size, found)
            _judge(context, corrupt, total)
            if source.left_out:
                context.warn(source.left_out)
            _add_prompts(context, source, writers[0].prompts, split)
            counts = [writer.finish() for writer in writers]
        except BaseException:
            for writer in writers:
                writer.abort()
            raise
        for name in SPLITS:
            if total and not counts[0][name] and split[name] > 0:
                of = f" of the first size, {size_text(sizes[0])}" if len(sizes) > 1 else ""
                raise StageFailed(f"the split '{name}' got none of the {total} images{of}",
                                  hint="add images, or change data.split")  # fmt: skip
        for name in SPLITS:
            missing = [told for label, told in enumerate(source.classes) if label not in found[name]]
            if missing and split[name] > 0:
                context.warn(f"the split '{name}' has no image of {len(missing)} of {len(source.classes)} classes: "
                             f"{', '.join(map(shown, missing[:5]))}{', …' if len(missing) > 5 else ''}")
        if corrupt:
            write_atomically(context.out / "corrupt.json", json.dumps(corrupt, indent=1, ensure_ascii=False) + "\n")
        by_size = {size_text(size): sum(of_size.values()) for size, of_size in zip(sizes, counts, strict=True)}
        return ShardResult(
            samples=sum(by_size.values()), splits={name: sum(one[name] for one in counts) for name in SPLITS},
            shape=(channels, *sizes[0]), classes=len(source.classes),
            corrupt=Corrupt(count=len(corrupt), names=tuple(bad["name"] for bad in corrupt[:_NAMED])),
            raw=source.made_from, prompts=len(load_prompts(context.out)) or None,
            sizes=by_size if settings.sizes else None,
        )  # fmt: skip


def _writers(context: Context[Data], source: ImageSource) -> list[ImageSetWriter]:
    """A writer for the images of each size; all captions stand in one table."""
    from fewstep.data.images import ImageSetWriter  # loads torch
    from fewstep.data.sized import folder_of_size

    settings, (sizes, channels) = context.settings, _shape(context, source)
    writers: list[ImageSetWriter] = []
    for number, size in enumerate(sizes):
        writers.append(ImageSetWriter(
            folder_of_size(context.out, number), (channels, *size), source.classes, settings.split.model_dump(),
            settings.record_size, settings.records_per_shard, sizes=sizes if settings.sizes and not number else (),
            prompts=writers[0].prompts if writers else None))  # fmt: skip
    return writers


def _add_images(context: Context[Data], source: ImageSource, writer: ImageSetWriter, size: int,
                found: dict[str, set[int]]) -> list[dict[str, str]]:  # fmt: skip
    """Gives the writer the images of size number `size`, block by block, and adds their labels to `found`, by split;
    returns the images that cannot be read."""
    from fewstep.data.images import digest_of  # loads torch
    from fewstep.data.records import decode_record

    loose, corrupt = _loose(context, size), []
    files, items = loose.find(), {item.name: item for item in source.items}
    for number in _blocks(source):
        if size and number not in files:    # a block without an image of this size
            continue
        record = decode_record(loose.read(number, files[number]))
        corrupt += record.metadata["corrupt"]
        for row, key in enumerate(record.metadata["keys"]):
            label = int(record.tensors["label"][row])
            image, prompt = record.tensors["image"][row], items[key].prompt
            given = {name: record.tensors[name][row] for name in items[key].given}
            if prompt is not None and context.settings.conditions == "image":
                digests = [digest_of(one) for one in (image, *given.values())]
                prompt = replace(prompt, image=sha256_json(digests) if given else digests[0])
            if prompt is not None and context.settings.sizes is not None:
                prompt = replace(prompt, size=size_of_text(context.settings.sizes[size]))
            found[writer.add(image, label, key, prompt, given=given)].add(label)
    return corrupt


def _source(context: Context[Data]) -> ImageSource:
    from tasks.data.image_sources import Digits, ImageFolder, Prompts  # loads torch

    if context.settings.source == "raw":
        return ImageFolder(context.outside["images"])
    return Digits() if context.settings.prompts is None else Prompts()


def _add_prompts(context: Context[Data], source: ImageSource, table: PromptTableBuilder,
                 shares: dict[str, float]) -> None:
    """Adds the prompts without images. A split that the hashes of few texts leave empty has all prompts."""
    given = read_given_prompts(context.outside["prompts"]) if "prompts" in context.outside else None
    if given is not None and given.told:
        context.warn(given.told)
    prompts = source.prompts + (given.prompts if given else ())
    table.add_all(prompts, shares)
    if not prompts:
        return
    found = table.table()
    for name, rows in found.splits.items():
        if not rows and shares[name] > 0:
            context.warn(f"the split '{name}' got none of {len(found)} prompts: it has all of them, so they are held "
                         "out from nothing; give more prompts")
            for prompt in found.prompts:
                table.add(prompt, name)


def _loose(context: Context[Data], size: int = 0) -> LooseRecords:
    from fewstep.data.records import LooseRecords  # loads torch

    return LooseRecords(context.scratch / (f"images-{size}" if size else "images"))


def _blocks(source: ImageSource) -> range:
    return range(-(-len(source.items) // UNIT))


def _shape(context: Context[Data], source: ImageSource) -> tuple[list[tuple[int, int]], int]:
    """(sizes, channels), sizes as (height, width); decided once, so that every block has them."""
    note = context.scratch / "shape.json"
    if not note.is_file():
        sizes = [size_of_text(size) for size in context.settings.sizes or ()]
        shape = source.shape(sizes[0][0] if sizes else context.settings.size, context.settings.channels)
        if shape.remark:
            context.warn(shape.remark)
        write_checked(note, SHAPE, {"sizes": sizes or [(shape.size, shape.size)], "channels": shape.channels})
    noted = read_checked(note, SHAPE)
    return [(height, width) for height, width in noted["sizes"]], noted["channels"]


def _judge(context: Context[Data], corrupt: list[dict[str, str]], total: int) -> None:
    """Name corrupt images; StageFailed if they are more than the allowed share."""
    if not corrupt:
        return
    more = "" if len(corrupt) <= 5 else f" and {len(corrupt) - 5} more"
    allowed = context.settings.max_corrupt_share
    named = ", ".join(f"{shown(bad['name'])} ({bad['reason']})" for bad in corrupt[:5])
    text = f"{len(corrupt)} of {total} images cannot be read: {named}{more}"
    if len(corrupt) > allowed * total:
        raise StageFailed(f"{text}: {len(corrupt) / total:.2%}, at most {allowed:.2%} allowed",
                          hint="repair or remove them, or raise data.max_corrupt_share")  # fmt: skip
    context.warn(text)

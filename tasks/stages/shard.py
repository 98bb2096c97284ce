"""The shard stage: images, from scikit-learn or from data/raw, into verified shards split by the hash of the pixels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewstep.data.images import SPLITS, ImageSetWriter
from fewstep.data.records import LooseRecords, Record, decode_record, encode_record
from fewstep.util.errors import SettingsError, StageFailed
from fewstep.util.io import canonical_json, write_atomically
from tasks.data.image_folder import Item, list_images
from tasks.storage.file_io import package_file, sha256

PARALLEL = True
BUILT_IN = "sklearn/datasets/data/digits.csv.gz"
UNIT = 2048
"""Source images per unit of work: what a kill can cost."""
_NAMED = 20
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
# What Pillow raises for damaged files: OSError in most formats, SyntaxError and ValueError in the header of some.


class Digits:
    """scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 17 levels of grey, ten classes."""

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self):
        from sklearn.datasets import load_digits

        self.comes_from = {BUILT_IN: sha256(package_file(BUILT_IN))}
        data = load_digits()
        levels = np.rint(data.images * (255 / 16)).astype(np.uint8)
        self.items = tuple(Item(f"{i:04d}", str(label)) for i, label in enumerate(data.target))
        self.image = lambda item: Image.fromarray(levels[int(item.name)])


class Raw:
    """What `fewstep data add` brought into data/raw; its hash is that of what the stage is given."""

    comes_from: dict[str, str] = {}

    def __init__(self, folder: Path):
        listing = list_images(folder)
        self.items, self.classes = listing.items, listing.classes
        self.image = lambda item: Image.open(folder / item.name)


def to_array(image: Image.Image, size: int, channels: int) -> Tensor:
    """An image as uint8 (channels, size, size): the largest centred square, resampled with Lanczos where it differs.

    Transparent parts become white. Raises OSError or ValueError if the file behind `image` is damaged.
    """
    image.load()
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    array = torch.from_numpy(np.array(image))
    return array[None] if channels == 1 else array.permute(2, 0, 1).contiguous()


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        raise ValueError("floating-point images have no agreed range; convert them to 8 or 16 bits")
    return Image.fromarray((values.astype(np.int64) * 255 // 65535).clip(0, 255).astype(np.uint8))


def _source(ctx) -> Digits | Raw:
    return Digits() if ctx.settings["source"] == "digits" else Raw(ctx.given["images"])


def _tries(image: Callable[[], Image.Image]) -> Image.Image | None:
    try:
        return image()
    except _UNREADABLE:
        return None


def _shape(ctx, source: Digits | Raw) -> tuple[int, int]:
    """(size, channels), from the settings or, where they leave it open, from the images' headers."""
    note = ctx.scratch / "shape.json"
    if note.is_file():
        shape = json.loads(note.read_bytes())
        return shape["size"], shape["channels"]
    size, channels = ctx.settings["size"], ctx.settings["channels"]
    for item in source.items:
        if size is not None and channels == 3:
            break
        image = _tries(lambda item=item: source.image(item))
        if image is None:
            continue
        with image:
            size = size or min(image.size)
            if ctx.settings["channels"] is None:
                grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
                channels = 1 if grey and channels != 3 else 3
        if ctx.settings["channels"] is not None:
            break
    if size is None or channels is None:
        raise StageFailed(f"none of the {len(source.items)} images can be read, such as {source.items[0].name}")
    write_atomically(note, canonical_json({"size": size, "channels": channels}))
    return size, channels


def check(ctx) -> None:
    """SettingsError if there are no images, before any work."""
    if ctx.settings["source"] == "raw":
        if "images" not in ctx.given:
            raise SettingsError("data.source is raw, but there are none", hint="bring them: `fewstep data add PATH`")
        list_images(ctx.given["images"])


def _loose(ctx) -> LooseRecords:
    return LooseRecords(ctx.scratch / "images")


def _unit_numbers(source: Digits | Raw) -> range:
    return range(-(-len(source.items) // UNIT))


def units(ctx) -> list[str]:
    """Blocks of source images that are not decoded yet."""
    loose = _loose(ctx)
    loose.sweep()
    source = _source(ctx)
    _shape(ctx, source)
    done = loose.find()
    return [f"{number:05d}" for number in _unit_numbers(source) if number not in done]


def run_unit(ctx, unit: str) -> None:
    """Decode one block; what cannot be read is named."""
    number, source = int(unit), _source(ctx)
    size, channels = _shape(ctx, source)
    labels = {name: label for label, name in enumerate(source.classes)}
    images, kept, corrupt = [], [], []
    for item in source.items[number * UNIT : (number + 1) * UNIT]:
        array = _tries(lambda item=item: _decoded(source, item, size, channels))
        if array is None:
            corrupt.append(item.name)
        else:
            images.append(array)
            kept.append(item)
    metadata = {"corrupt": corrupt, "keys": [item.name for item in kept], "captions": [item.caption for item in kept]}
    # A record holds at least one sample; a block without a readable image holds one blank that finish leaves out.
    stack = torch.stack(images) if images else torch.zeros((1, channels, size, size), dtype=torch.uint8)
    label = torch.tensor([labels.get(item.label, -1) for item in kept] or [-1], dtype=torch.int64)
    _loose(ctx).write(number, encode_record({"image": stack, "label": label}, metadata))
    done = len(_loose(ctx).find()) * UNIT
    ctx.progress(min(done, len(source.items)), len(source.items))


def _decoded(source: Digits | Raw, item: Item, size: int, channels: int) -> Tensor:
    with source.image(item) as image:
        return to_array(image, size, channels)


def finish(ctx) -> dict:
    """Split and write the shards. StageFailed if too many images are corrupt or a split stays empty."""
    source = _source(ctx)
    size, channels = _shape(ctx, source)
    loose, total = _loose(ctx), len(source.items)
    files = loose.find()
    shutil.rmtree(ctx.out)  # what a killed finish left
    ctx.out.mkdir()
    settings = ctx.settings
    writer = ImageSetWriter(
        ctx.out, (channels, size, size), source.classes, settings["split"],
        settings["record_size"], settings["records_per_shard"],
    )  # fmt: skip
    corrupt: list[str] = []
    try:
        for number in _unit_numbers(source):
            record: Record = decode_record(loose.read(number, files[number]))
            corrupt += record.metadata["corrupt"]
            rows = zip(record.metadata["keys"], record.metadata["captions"], strict=True)
            for row, (key, caption) in enumerate(rows):
                writer.add(record.tensors["image"][row], int(record.tensors["label"][row]), key, caption)
        _judge(ctx, corrupt, total)
        counts = writer.finish()
    except BaseException:
        writer.abort()
        raise
    for name in SPLITS:
        if not counts[name] and settings["split"][name] > 0:
            raise StageFailed(
                f"the split '{name}' got none of the {total} images", hint="add images, or change data.split"
            )
    if corrupt:
        write_atomically(ctx.out / "corrupt.json", json.dumps(corrupt, indent=1, ensure_ascii=False) + "\n")
    return {
        "samples": sum(counts.values()),
        "splits": counts,
        "shape": [channels, size, size],
        "classes": len(source.classes),
        "corrupt": {"count": len(corrupt), "names": corrupt[:_NAMED]},
        "raw": source.comes_from,
    }


def _judge(ctx, corrupt: list[str], total: int) -> None:
    if not corrupt:
        return
    more = "" if len(corrupt) <= 5 else f" and {len(corrupt) - 5} more"
    allowed = ctx.settings["max_corrupt_share"]
    text = f"{len(corrupt)} of {total} images cannot be read: {', '.join(corrupt[:5])}{more}"
    if len(corrupt) > allowed * total:
        raise StageFailed(
            f"{text}: {len(corrupt) / total:.2%}, at most {allowed:.2%} allowed",
            hint="repair or remove them, or raise data.max_corrupt_share",
        )
    ctx.warn(text)

"""The shard stage: images, from scikit-learn or from data/raw, into verified shards split by the hash of the pixels."""

from __future__ import annotations

import json
import shutil

import torch

from fewstep.data.images import SPLITS, ImageSetWriter
from fewstep.data.records import LooseRecords, Record, decode_record, encode_record
from fewstep.util.errors import SettingsError, StageFailed
from fewstep.util.files import write_atomically
from fewstep.util.hashing import canonical_json
from tasks.data.image_folder import list_images
from tasks.data.image_sources import Digits, ImageFolder, ImageSource

PARALLEL = True
UNIT = 2048
"""Source images per unit of work: what a kill can cost."""
_NAMED = 20


def _source(ctx) -> ImageSource:
    return Digits() if ctx.settings["source"] == "digits" else ImageFolder(ctx.given["images"])


def _size_and_channels(ctx, source: ImageSource) -> tuple[int, int]:
    """Of the images to be made; looked up once, since that may open every file."""
    note = ctx.scratch / "shape.json"
    if note.is_file():
        shape = json.loads(note.read_bytes())
        return shape["size"], shape["channels"]
    size, channels = source.size_and_channels(ctx.settings["size"], ctx.settings["channels"])
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


def _unit_numbers(source: ImageSource) -> range:
    return range(-(-len(source.items) // UNIT))


def units(ctx) -> list[str]:
    """Blocks of source images that are not decoded yet."""
    loose = _loose(ctx)
    loose.sweep()
    source = _source(ctx)
    _size_and_channels(ctx, source)
    done = loose.find()
    return [f"{number:05d}" for number in _unit_numbers(source) if number not in done]


def run_unit(ctx, unit: str) -> None:
    """Decode one block; what cannot be read is named."""
    number, source = int(unit), _source(ctx)
    size, channels = _size_and_channels(ctx, source)
    labels = {name: label for label, name in enumerate(source.classes)}
    images, kept, corrupt = [], [], []
    for item in source.items[number * UNIT : (number + 1) * UNIT]:
        array = source.decode(item, size, channels)
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


def finish(ctx) -> dict:
    """Split and write the shards. StageFailed if too many images are corrupt or a split stays empty."""
    source = _source(ctx)
    size, channels = _size_and_channels(ctx, source)
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
        "raw": source.made_from,
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

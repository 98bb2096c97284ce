"""Controls and masks that are brought with images: from the table through shards to what a condition is made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.data.images import SPLITS, load_prompts, load_split
from fewstep.families.image_arguments import ImageArguments
from fewstep.util.errors import SettingsError, StageFailed
from tasks.data.image_conditions import ImageConditions
from tasks.data.image_folder import TABLE, list_images
from tasks.data.import_images import add_images
from tests.tasks.stages.test_shard_stage import context, draw, run

COUNT = 60


def brought(folder: Path, **left_out: int) -> Path:
    """A table of images, each with a control and a mask of its own; left_out: rows without a column."""
    rows = []
    for number in range(COUNT):
        draw(folder / "photos" / f"{number}.png", number)
        draw(folder / "edges" / f"{number}.png", 1000 + number, mode="L")
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[:, : 1 + number % 7] = 255
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        row = {"name": f"photos/{number}.png", "caption": f"thing {number % 5}",
               "control": f"edges/{number}.png", "mask": f"masks/{number}.png"}  # fmt: skip
        rows.append({name: value for name, value in row.items() if left_out.get(name) != number})
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def sharded(tmp_path: Path) -> tuple[Path, Path]:
    """The raw folder and the shards of images that were brought with controls and masks."""
    raw = tmp_path / "raw"
    add_images(brought(tmp_path / "mine"), raw)
    ctx = context(tmp_path / "work", raw, conditions="image")
    run(ctx)
    return raw, ctx.out


def pixels(path: Path) -> torch.Tensor:
    array = torch.from_numpy(np.asarray(Image.open(path)).copy())
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def test_they_travel_with_their_images(tmp_path):
    raw, shards = sharded(tmp_path)
    listing = list_images(raw)
    assert len(listing.items) == COUNT and listing.told_left_out is None
    assert json.loads((raw / TABLE).read_text().splitlines()[0])["control"].startswith("edges/")
    seen = 0
    for split in SPLITS:
        images = load_split(shards, split)
        assert images.given == ("control", "mask")
        for number, key in enumerate(images.keys(list(range(len(images))))):
            name = Path(key).name
            assert torch.equal(images.further("control", [number])[0], pixels(raw / "edges" / name).expand(3, -1, -1))
            assert torch.equal(images.further("mask", [number])[0], pixels(raw / "masks" / name))
            seen += 1
    assert seen == COUNT == len(load_prompts(shards))


@pytest.mark.parametrize(("names", "controls"), [
    (("image",), {"image"}), (("image", "control_image"), {"control_image"}), (("image", "mask_image"), {"image"}),
])  # fmt: skip
def test_a_condition_has_them_in_the_place_of_the_image_and_of_a_drawn_mask(tmp_path, names, controls):
    raw, shards = sharded(tmp_path)
    images = {split: load_split(shards, split) for split in SPLITS}
    conditions = ImageConditions(images, [ImageArguments(names, (8, 8), True)], seed=0)
    for split in SPLITS:
        for key, row in zip(images[split].keys(list(range(len(images[split])))), images[split].prompts.tolist(),
                            strict=True):  # fmt: skip
            for name, (found,) in conditions.of([row]).items():
                folder = "masks" if "mask" in name else "edges" if name in controls else "photos"
                wanted = Image.open(raw / folder / Path(key).name).convert(found.mode)
                assert found.mode == ("L" if "mask" in name else "RGB")
                assert np.array_equal(np.asarray(found), np.asarray(wanted)), (name, key)


def test_another_control_is_another_condition(tmp_path):
    folder = tmp_path / "mine"
    draw(folder / "photo.png", 0)
    draw(folder / "one.png", 1)
    draw(folder / "two.png", 2)
    (folder / "copy.png").write_bytes((folder / "photo.png").read_bytes())
    rows = [{"name": "photo.png", "caption": "a thing", "control": "one.png"},
            {"name": "copy.png", "caption": "a thing", "control": "two.png"}]  # fmt: skip
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ctx = context(tmp_path / "work", folder, conditions="image", split={"train": 1.0, "fit": 0.0, "test": 0.0})
    run(ctx)
    assert len(load_prompts(ctx.out)) == 2


def test_what_is_missing_or_broken_is_named(tmp_path):
    some = brought(tmp_path / "some", mask=7)
    with pytest.raises(SettingsError, match="1 of 60 images have no mask, such as photos/7.png; the others have one"):
        run(context(tmp_path / "work", some, conditions="image"))
    gone = brought(tmp_path / "gone")
    (gone / "edges" / "3.png").unlink()
    with pytest.raises(SettingsError, match="line 4: edges/3.png is not there"):
        add_images(gone, tmp_path / "raw")
    broken = brought(tmp_path / "broken")
    (broken / "edges" / "3.png").write_bytes(b"no picture")
    ctx = context(tmp_path / "other", broken, conditions="image")
    with pytest.raises(StageFailed, match=r"photos/3.png \(its control edges/3.png: in no format that is known"):
        run(ctx)

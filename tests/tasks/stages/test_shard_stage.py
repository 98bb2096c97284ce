"""The shard stage, run as the pipeline runs it: real images, real digits, damaged files."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.data.images import SPLITS, load_prompts, load_split
from fewstep.data.medium import to_bytes
from fewstep.data.prompt import Prompt
from fewstep.data.records import verify_shard
from fewstep.util.errors import CorruptData, SettingsError, StageFailed
from fewstep.util.files import TEMPORARY
from tasks.config.schema import Data, Settings
from tasks.data.image_decoding import to_array
from tasks.engine.events import Observer
from tasks.stages import shard
from tasks.stages.base import Context
from tasks.storage.workspace import Workspace

STAGE = shard.ShardStage()


class Notes(Observer):
    def __init__(self):
        self.warnings: list[str] = []
        self.done: list[tuple[int, int]] = []

    def stage_warned(self, stage, text):
        self.warnings.append(text)

    def stage_progress(self, stage, done, total, unit, metrics, step):
        self.done.append((done, total))


def context(work: Path, raw: Path | None = None, prompts: Path | None = None, **settings) -> Context:
    data = Data(source="raw" if raw else "digits", prompts=prompts and str(prompts), **settings)
    for name in ("out", "scratch"):
        (work / name).mkdir(parents=True, exist_ok=True)
    return Context(
        stage="shard", key="k", settings=data, seed=0, inputs={}, manifests={},
        outside=({"images": raw} if raw else {}) | ({"prompts": prompts} if prompts else {}), work=work, previous=None,
        workspace=Workspace(work), observer=Notes(),
    )  # fmt: skip


def run(ctx: Context, order=sorted) -> dict:
    STAGE.check(ctx)
    for unit in order(STAGE.units(ctx)):
        STAGE.run_unit(ctx, unit)
    return STAGE.finish(ctx).model_dump(mode="json")


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Context:
    ctx = context(tmp_path_factory.mktemp("digits"))
    ctx.summary = run(ctx)
    return ctx


def draw(path: Path, seed: int, size: int = 8, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels[..., :3] if mode == "RGB" else pixels).save(path)


@pytest.fixture
def flowers(tmp_path) -> Path:
    folder = tmp_path / "flowers"
    for number in range(60):
        draw(folder / ("rose", "tulip", "iris")[number % 3] / f"{number:03d}.png", number)
    return folder


def test_digits(digits):
    from sklearn.datasets import load_digits

    assert digits.summary["samples"] == 1797 and digits.summary["classes"] == 10
    truth = {}
    for pixels, label in zip(*load_digits(return_X_y=True), strict=True):
        truth.setdefault(np.rint(pixels * 255 / 16).astype(np.uint8).tobytes(), []).append(int(label))
    counts = {}
    for name in SPLITS:
        split = load_split(digits.out, name)
        counts[name] = len(split)
        images = split.images()
        assert images.shape == (len(split), 1, 8, 8) and split.shape == (1, 8, 8)
        assert images.dtype == torch.float32 and float(images.min()) == -1 and float(images.max()) == 1
        assert split.class_names == list("0123456789") and split.num_classes == 10
        for image, label in zip(to_bytes(images), split.labels.tolist(), strict=True):
            truth[image.numpy().tobytes()].remove(label)
    assert not any(truth.values()) and sum(counts.values()) == 1797
    shares = {name: count / 1797 for name, count in counts.items()}
    assert shares == pytest.approx({"train": 0.6, "fit": 0.15, "test": 0.25}, abs=0.04)
    assert all(verify_shard(path) == [] for path in digits.out.rglob("*.tar"))


def test_twice_the_same_bytes(digits, tmp_path):
    again = context(tmp_path / "again")
    run(again)
    assert files(again.out) == files(digits.out)


def test_in_any_order_and_after_interruptions(tmp_path, flowers, monkeypatch):
    monkeypatch.setattr(shard, "UNIT", 7)
    plain = context(tmp_path / "plain", flowers)
    run(plain)
    other = context(tmp_path / "other", flowers)
    todo = STAGE.units(other)
    random.Random(0).shuffle(todo)
    for unit in todo[:4]:
        STAGE.run_unit(other, unit)
    (other.scratch / "images" / f"{TEMPORARY}1-abc").write_bytes(b"half")
    (other.out / "train").mkdir()
    (other.out / "train" / f"{TEMPORARY}1-abc").write_bytes(b"half")
    assert sorted(STAGE.units(other)) == sorted(todo[4:])
    run(other, order=lambda units: units[::-1])
    assert files(other.out) == files(plain.out)
    assert other.observer.done[-1] == (60, 60)


def test_duplicates_land_in_one_split(tmp_path):
    folder = tmp_path / "images"
    for number in range(40):
        draw(folder / "a" / f"{number}.png", number)
        for copy, end in enumerate(("png", "bmp", "tiff")):  # the same pixels in other files
            with Image.open(folder / "a" / f"{number}.png") as image:
                image.save(folder / "a" / f"{number}-{copy}.{end}")
    ctx = context(tmp_path / "work", folder)
    summary = run(ctx)
    assert summary["samples"] == 160
    where: dict[bytes, set] = {}
    for name in SPLITS:
        for image in to_bytes(load_split(ctx.out, name).images()):
            where.setdefault(image.numpy().tobytes(), set()).add(name)
    assert len(where) == 40 and all(len(splits) == 1 for splits in where.values())


def test_classes_sizes_and_colours(tmp_path):
    folder = tmp_path / "images"
    for number in range(30):
        draw(folder / "grey" / f"{number}.png", number, 16, "L")
    ctx = context(tmp_path / "grey", folder)
    assert run(ctx)["shape"] == [1, 16, 16]
    draw(folder / "colour" / "0.png", 99, 20, "RGBA")
    Image.new("RGB", (31, 10), (255, 0, 0)).save(folder / "colour" / "1.png")
    ctx = context(tmp_path / "mixed", folder, size=12)
    assert run(ctx)["shape"] == [3, 12, 12]
    parts = [load_split(ctx.out, name) for name in SPLITS]
    assert all(part.class_names == ["colour", "grey"] for part in parts)
    assert sum(int((part.labels == 0).sum()) for part in parts) == 2
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 12, 12)
    assert any(torch.equal(image, red) for part in parts for image in part.images())


def test_transparent_becomes_white_and_sixteen_bits_are_scaled(tmp_path):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (to_array(clear, [(4, 4)], 3)[0] == 255).all()
    deep = Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16))
    assert (to_array(deep, [(4, 4)], 1)[0] == 255).all()


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_captions(tmp_path, kind):
    folder = tmp_path / "images"
    rows = []
    for number in range(40):
        draw(folder / "sub" / f"{number:02d}.png", number)
        rows.append((f"sub/{number:02d}.png", f"flower {number}, red"))
    if kind == "csv":
        lines = ["file_name,text", *(f'{name},"{text}"' for name, text in rows)]
    else:
        lines = [json.dumps({"name": name, "caption": text}) for name, text in rows]
    table = folder / f"metadata.{kind}"
    table.write_text("\n".join(lines) + "\n")
    ctx = context(tmp_path / "work", folder)
    summary = run(ctx)
    assert summary["classes"] == 0
    from fewstep.data.records import ShardReader

    found = {}
    for path in ctx.out.rglob("*.tar"):
        for record in ShardReader(path):
            found |= dict(zip(record.metadata["keys"], record.metadata["captions"], strict=True))
    assert found == dict(rows)
    x, y = load_split(ctx.out, "train").batch(0, 0, 4)
    assert y is None and x.shape == (4, 3, 8, 8)


def test_corrupt_images_are_counted_and_named(tmp_path, flowers):
    (flowers / "rose" / "broken.png").write_bytes(b"not a picture")
    whole = (flowers / "iris" / "002.png").read_bytes()
    (flowers / "iris" / "half.png").write_bytes(whole[: len(whole) // 2])
    (flowers / "iris" / "empty.png").write_bytes(b"")
    ctx = context(tmp_path / "work", flowers, max_corrupt_share=0.05)
    summary = run(ctx)
    assert summary["samples"] == 60 and summary["corrupt"]["count"] == 3
    assert summary["corrupt"]["names"] == ["iris/empty.png", "iris/half.png", "rose/broken.png"]
    corrupt = json.loads((ctx.out / "corrupt.json").read_text())
    assert [bad["name"] for bad in corrupt] == summary["corrupt"]["names"] and all(bad["reason"] for bad in corrupt)
    assert "3 of 63 images" in ctx.observer.warnings[0] and "iris/half.png" in ctx.observer.warnings[0]
    strict = context(tmp_path / "strict", flowers, max_corrupt_share=0.04)
    with pytest.raises(StageFailed, match=r"3 of 63 .* rose/broken.png \(.*\): 4.76%, at most 4.00% allowed"):
        run(strict)


def test_a_block_without_one_good_image(tmp_path, flowers, monkeypatch):
    monkeypatch.setattr(shard, "UNIT", 4)
    for number in range(8):
        (flowers / "a" / f"{number}.png").parent.mkdir(exist_ok=True)
        (flowers / "a" / f"{number}.png").write_bytes(b"x")
    summary = run(context(tmp_path / "work", flowers, max_corrupt_share=0.5))
    assert summary["samples"] == 60 and summary["corrupt"]["count"] == 8


def test_nothing_readable(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "x.png").write_bytes(b"x")
    with pytest.raises(StageFailed, match="none of the 1 images"):
        run(context(tmp_path / "work", tmp_path / "images", max_corrupt_share=1.0))


def test_a_split_that_stays_empty(tmp_path):
    draw(tmp_path / "images" / "a" / "x.png", 0)
    with pytest.raises(StageFailed, match="the split '.*' got none of the 1 images"):
        run(context(tmp_path / "work", tmp_path / "images"))
    ctx = context(tmp_path / "all", tmp_path / "images", split={"train": 1.0, "fit": 0.0, "test": 0.0})
    assert run(ctx)["splits"] == {"train": 1, "fit": 0, "test": 0}
    assert len(load_split(ctx.out, "test")) == 0


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(SettingsError, match="no such folder"):
        STAGE.check(context(tmp_path / "work", tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="no images there"):
        STAGE.check(context(tmp_path / "work", tmp_path / "empty"))
    assert not any((tmp_path / "work" / "out").iterdir())


def test_a_flipped_bit_is_found_before_use(digits, tmp_path):
    shutil.copytree(digits.out, tmp_path / "shards")
    path = tmp_path / "shards" / "train" / "00000.tar"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    split = load_split(tmp_path / "shards", "train")
    with pytest.raises(CorruptData, match="train/00000.tar"):
        split.batch(0, 0, 16)
    with pytest.raises(CorruptData, match="train/00000.tar"):
        split.images()


def test_a_damaged_description(digits, tmp_path):
    with pytest.raises(SettingsError, match="no images here"):
        load_split(tmp_path, "train")
    shutil.copytree(digits.out, tmp_path / "shards")
    path = tmp_path / "shards" / "images.json"
    path.write_text(path.read_text().replace('"9"', '"8"'))
    with pytest.raises(CorruptData, match="images.json"):
        load_split(tmp_path / "shards", "train")
    with pytest.raises(SettingsError, match="unknown split 'tset'"):
        load_split(digits.out, "tset")


def test_batches_visit_every_image_once_per_epoch(digits):
    split = load_split(digits.out, "train")
    everything = to_bytes(split.images()).flatten(1).double() @ torch.arange(1, 65, dtype=torch.float64)
    n, orders = len(split), []
    for epoch in range(2):
        x = torch.cat([split.batch(3, epoch * n + start, 49)[0] for start in range(0, n - 48, 49)])
        rest = split.batch(3, epoch * n + len(x), n - len(x))[0] if len(x) < n else x[:0]
        keys = to_bytes(torch.cat([x, rest])).flatten(1).double() @ torch.arange(1, 65, dtype=torch.float64)
        assert torch.equal(keys.sort().values, everything.sort().values)
        orders.append(keys)
    assert not torch.equal(*orders)
    x, y = split.batch(3, n - 5, 10)  # across the end of an epoch
    assert torch.equal(x[:5], split.batch(3, n - 5, 5)[0]) and torch.equal(y[5:], split.batch(3, n, 5)[1])


def test_the_size_is_the_one_that_most_images_have(tmp_path):
    folder = tmp_path / "images"
    draw(folder / "a" / "000.png", 0, 1)
    for number in range(1, 30):
        draw(folder / "a" / f"{number:03d}.png", number, 16)
    ctx = context(tmp_path / "work", folder)
    assert run(ctx)["shape"] == [3, 16, 16]
    assert "the size is 16, the shorter side of 29 of 30 images; 1 of 1 … 16 pixels" in ctx.observer.warnings[0]


@pytest.mark.parametrize("size", [2, 1200])
def test_a_size_outside_the_settings_range_is_refused(tmp_path, size):
    for number in range(3):
        draw(tmp_path / "images" / "a" / f"{number}.png", number, size)
    with pytest.raises(StageFailed, match=rf"3 of 3\) have a shorter side of {size} pixels.*4 … 1024"):
        run(context(tmp_path / "work", tmp_path / "images"))
    assert run(context(tmp_path / "set", tmp_path / "images", size=8, split={"train": 1, "fit": 0, "test": 0}))


def test_the_reason_is_named(tmp_path, flowers, monkeypatch):
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(flowers / "rose" / "float.tif")
    Image.new("RGB", (300, 300)).save(flowers / "iris" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    ctx = context(tmp_path / "work", flowers, max_corrupt_share=0.05)
    run(ctx)
    reasons = {bad["name"]: bad["reason"] for bad in json.loads((ctx.out / "corrupt.json").read_text())}
    assert "90000 pixels" in reasons["iris/large.png"] and "floating-point" in reasons["rose/float.tif"]
    with pytest.raises(StageFailed, match=r"rose/float.tif \(floating-point images have no agreed range"):
        run(context(tmp_path / "strict", flowers))


def test_what_was_left_out_and_what_splits_lack_is_named(tmp_path, flowers):
    (flowers / "iris" / "x.heic").write_bytes(b"x")
    for number in range(2):
        draw(flowers / "rare" / f"{number}.png", 100 + number)
    ctx = context(tmp_path / "work", flowers, max_corrupt_share=0.05)
    run(ctx)
    assert any("1 .heic (such as iris/x.heic)" in text for text in ctx.observer.warnings)
    assert any("has no image of 1 of 4 classes: rare" in text for text in ctx.observer.warnings)
    with pytest.raises(SettingsError, match="x.heic.*at most 1.00% allowed"):
        run(context(tmp_path / "strict", flowers))
    (flowers / "rare" / "0.png").unlink()
    with pytest.raises(SettingsError, match=r"one image only in 1 of 4 classes \(rare\)"):
        run(context(tmp_path / "one", flowers, max_corrupt_share=0.05))


def test_captions_are_the_prompts_of_the_images_in_every_split(tmp_path):
    rows = []
    for number in range(80):
        draw(tmp_path / "raw" / f"{number:02d}.png", number)
        rows.append({"name": f"{number:02d}.png", "caption": f"a {('red', 'blue')[number % 2]} thing",
                     "group": ("warm", "cold")[number % 2]})  # fmt: skip
    (tmp_path / "raw" / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "raw" / "prompts.jsonl").write_text('{"prompt": "a green thing"}\n{"prompt": "a red thing"}\n')
    ctx = context(tmp_path / "work", tmp_path / "raw")
    assert run(ctx)["prompts"] == 3
    table = load_prompts(ctx.out)
    assert sorted(table.texts) == ["a blue thing", "a green thing", "a red thing"] and table.groups == ("cold", "warm")
    green = table.texts.index("a green thing")
    assert sum(green in table.rows(split) for split in SPLITS) == 1
    for split in SPLITS:
        images = load_split(ctx.out, split)
        assert set(images.prompts.tolist()) == set(table.rows(split).tolist()) - {green} == {0, 1, 2} - {green}
        for row, label in zip(images.prompts.tolist(), images.labels.tolist(), strict=True):
            colour = table.texts[row].split()[1]
            assert label == -1 and table.prompts[row].group == {"red": "warm", "blue": "cold"}[colour]


def test_prompts_in_the_place_of_images(tmp_path):
    (tmp_path / "p.txt").write_text("".join(f"prompt {number}\n" for number in range(40)))
    ctx = context(tmp_path / "work", prompts=tmp_path / "p.txt")
    result = run(ctx)
    assert result["samples"] == 0 and result["prompts"] == 40 and result["classes"] == 0
    table, images = load_prompts(ctx.out), load_split(ctx.out, "test")
    assert sorted(row for split in SPLITS for row in table.rows(split)) == list(range(40))
    assert len(images) == 0 and images.prompts.tolist() == [] and not ctx.observer.warnings
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    few = context(tmp_path / "few", prompts=tmp_path / "few.txt")
    run(few)
    found = load_prompts(few.out)
    assert all(len(found.rows(split)) for split in SPLITS) and "got none of 2 prompts" in few.observer.warnings[0]
    assert Prompt("one") in found.prompts
    (tmp_path / "p.csv").write_text("prompt,image\na,p.txt\n")
    with pytest.raises(SettingsError, match="takes prompts without images"):
        run(context(tmp_path / "bad", prompts=tmp_path / "p.csv"))


def test_images_with_classes_are_the_same_bytes_with_prompts_beside_them(tmp_path, flowers):
    run(plain := context(tmp_path / "plain", flowers))
    (tmp_path / "p.txt").write_text("a rose\n")
    run(beside := context(tmp_path / "beside", flowers, tmp_path / "p.txt"))
    assert {name: data for name, data in files(beside.out).items() if name != "prompts.json"} == files(plain.out)


def test_a_file_of_prompts_is_known_by_its_content_not_by_its_place():
    here, there = (STAGE.resolve(Settings(data=Data(prompts=path))) for path in ("p.txt", "/elsewhere/p.txt"))
    assert here == there != STAGE.resolve(Settings())

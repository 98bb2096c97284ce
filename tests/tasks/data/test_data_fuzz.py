"""Whatever lies in a folder is taken, or refused with an error that names it: never another exception."""

import csv
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewstep.util.errors import CorruptData, SettingsError, StageFailed
from tasks.data.image_decoding import MODES, Unreadable
from tasks.data.image_folder import list_images
from tasks.data.image_sources import ImageFolder
from tests.fuzzing import TIMEOUT, bounded, damaged
from tests.icc_profiles import cmyk_profile, grey_profile, rgb_profile

pytestmark = TIMEOUT
BOUNDED = bounded(60)
KINDS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM",
         "tga": "TGA", "jp2": "JPEG2000"}  # fmt: skip
PROFILES = [rgb_profile(), grey_profile(), cmyk_profile(), b"", b"no profile"]
MANY_MODES = sorted({*MODES, "F", "LAB"})
ODD = ["1.png", "2.png", "a/../1.png", "/1.png", "..", "\ud800", "\0", "x" * 300]
TEXT = st.text(max_size=8) | st.sampled_from(ODD)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUE = PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(TEXT, PLAIN, max_size=2)
COLUMN = st.sampled_from(["name", "file_name", "caption", "text", "class", "label", "other", ""])


@st.composite
def picture(draw) -> tuple[str, bytes]:
    """(ending, bytes) of an image in any mode and format, with metadata, perhaps damaged."""
    ending, mode = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(MANY_MODES))
    width, height = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    bytes_of = np.random.default_rng(draw(st.integers(0, 99))).bytes(width * height * 4)
    image = Image.frombytes("RGBA", (width, height), bytes_of)
    try:
        image = image.convert(mode)
    except ValueError:
        image = Image.new(mode, (width, height))
    options = {}
    if draw(st.booleans()):
        exif = Image.Exif()
        exif[0x112] = draw(st.integers(0, 9))
        options["exif"] = draw(st.binary(max_size=30) | st.just(exif.tobytes()))
    if draw(st.booleans()):
        profile = draw(st.sampled_from(PROFILES))
        options["icc_profile"] = profile if draw(st.booleans()) else draw(damaged(profile))
    if draw(st.booleans()):
        options["transparency"] = draw(st.integers(0, 300) | st.binary(max_size=4))
    buffer = io.BytesIO()
    try:
        image.save(buffer, KINDS[ending], **options)
    except Exception:  # what Pillow does not write
        buffer = io.BytesIO()
        Image.new("L", (width, height)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return ending, bytes(data[: draw(st.none() | st.integers(0, len(data)))])


@BOUNDED
@given(st.lists(picture(), min_size=1, max_size=3), st.sampled_from([1, 3]))
def test_images(pictures, channels):
    with tempfile.TemporaryDirectory() as folder:
        for number, (ending, data) in enumerate(pictures):
            path = Path(folder, "class", f"{number}.{ending}")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        source = ImageFolder(Path(folder))
        try:
            shape = source.shape(None, None)
            assert 4 <= shape.size <= 1024 and shape.channels in (1, 3)
        except StageFailed as error:
            assert "class/" in str(error) or "shorter side" in str(error)
        for item in source.items:
            try:
                assert tuple(source.decode(item, [(8, 8)], channels)[0].shape) == (channels, 8, 8)
            except Unreadable as error:
                assert str(error)


def _json_lines(rows: list) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def _csv(rows: list) -> bytes:
    text = io.StringIO()
    names = sorted({name for row in rows for name in row})
    csv.writer(text).writerows([names, *([row.get(name) for name in names] for row in rows)])
    return text.getvalue().encode("utf-8", "surrogatepass")


ROWS = st.lists(st.dictionaries(COLUMN, VALUE, max_size=4), max_size=4)
TABLES = st.one_of(
    st.tuples(st.just("metadata.jsonl"), ROWS.map(_json_lines)), st.tuples(st.just("metadata.csv"), ROWS.map(_csv)),
    st.tuples(st.sampled_from(["metadata.jsonl", "metadata.csv"]), st.binary(max_size=60)),
)  # fmt: skip


@BOUNDED
@given(TABLES, st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"]))
def test_tables(table, mark):
    name, content = table
    with tempfile.TemporaryDirectory() as folder:
        for image in ("1.png", "2.png"):
            Path(folder, image).write_bytes(b"x")
        Path(folder, name).write_bytes(mark + content)
        _listed(Path(folder))


FILES = [b"x.png", b"y.jpg", b"z.heic", b"caf\xe9.png", b"n.txt", b"\n.png", b".h"]
NAMES = st.sampled_from([b"a", b"b", b"1", b"10", *FILES])
TREE = st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["file", "folder", "link"]),
                          st.lists(NAMES | st.just(b".."), max_size=3)), max_size=6)  # fmt: skip


@BOUNDED
@given(TREE)
def test_trees(tree):
    with tempfile.TemporaryDirectory() as folder:
        for parts, kind, target in tree:
            path = os.path.join(os.fsencode(folder), *parts)
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if kind == "link":
                    os.symlink(os.path.join(b".", *[part for part in target if part != b".."]), path)
                elif kind == "folder":
                    os.makedirs(path, exist_ok=True)
                else:
                    with open(path, "xb") as file:
                        file.write(b"x")
            except OSError:  # a file where a folder should be, or the other way round
                continue
        _listed(Path(folder))


def _listed(folder: Path) -> None:
    try:
        listing = list_images(folder)
    except (SettingsError, CorruptData) as error:
        assert str(folder) in str(error) and str(error).isprintable()
        return
    for item in listing.items:
        assert (folder / item.name).is_file() and item.name.encode()
        assert (item.label or item.caption or "").encode() is not None
    assert len({item.name for item in listing.items}) == len(listing.items)
    assert set(listing.classes) == {item.label for item in listing.items} - {None}

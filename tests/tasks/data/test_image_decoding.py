"""Decoding of every mode of Pillow, each against the values that the picture shows."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from tasks.data.image_decoding import MODES, Unreadable, read, to_array

RAMP = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP.T], -1)


def opened(image: Image.Image, kind: str, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def png(rows: list[bytes], bits: int, colour: int, transparent: bytes = b"", side: int = 16) -> Image.Image:
    """A PNG made by hand: Pillow writes none of these."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, len(rows), bits, colour, 0, 0, 0))
    data += chunk(b"tRNS", transparent) if transparent else b""
    data += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(data))


def grey(image: Image.Image) -> np.ndarray:
    return to_array(image, [(16, 16)], 1)[0][0].numpy()


def colour(image: Image.Image) -> np.ndarray:
    return to_array(image, [(16, 16)], 3)[0].permute(1, 2, 0).numpy()


def make(mode: str) -> Image.Image:
    """The ramp of grey, or of colour, in a mode of Pillow."""
    if mode.startswith("I"):
        wide = RAMP.astype(np.int64) * 257
        kind = {"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")
        return Image.frombytes(mode, (16, 16), wide.astype(kind).tobytes())
    if mode in ("La", "RGBa"):
        return make(mode[:-1] + "A").convert(mode)
    if mode == "1":
        return Image.fromarray(RAMP > 127)
    source = Image.fromarray(RAMP if mode in ("L", "LA", "P", "PA") else COLOUR)
    return (source.convert("P") if mode == "PA" else source).convert(mode)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_mode_that_is_taken(mode):
    image = make(mode)
    assert image.mode == mode
    if mode == "1":
        assert np.array_equal(grey(image), np.where(RAMP > 127, 255, 0))
    elif mode in ("L", "LA", "La", "P", "PA") or mode.startswith("I"):
        assert np.array_equal(grey(image), RAMP) and np.array_equal(colour(image), np.stack([RAMP] * 3, -1))
    else:
        rounding = {"YCbCr": 3, "HSV": 8}.get(mode, 0)
        assert np.abs(colour(image).astype(int) - COLOUR).max() <= rounding


@pytest.mark.parametrize(("mode", "reason"), [("F", "no agreed range"), ("LAB", "Lab")])
def test_modes_that_are_refused(mode, reason):
    with pytest.raises(Unreadable, match=reason):
        to_array(Image.new(mode, (4, 4)), [(4, 4)], 1)[0]


def test_whole_numbers_without_a_range_are_refused():
    with pytest.raises(Unreadable, match="values -5 … 70000, expected 0 … 65535"):
        grey(Image.fromarray(np.array([[-5, 70000]], dtype=np.int32)))
    with pytest.raises(Unreadable, match="TIFF of 32 bits"):
        grey(opened(Image.fromarray(RAMP.astype(np.int32)), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind, orientation):
    picture = Image.new("L", (24, 16))
    picture.paste(255, (0, 0, 24, 8))
    picture.paste(128, (0, 0, 12, 8))
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    image = opened(picture, kind, exif=exif.tobytes(), **options)
    plain = Image.open(io.BytesIO(image.fp.getvalue()))
    plain.load()
    shown = np.asarray(ImageOps.fit(ImageOps.exif_transpose(plain).convert("L"), (16, 16), Image.Resampling.LANCZOS))
    assert np.abs(grey(image).astype(int) - shown).max() <= 1
    if orientation == 6:  # by hand: the stored top is the right
        assert grey(image)[:, 10:].mean() > 150 and grey(image)[:, :6].mean() < 5


def test_transparent_grey_of_every_depth():
    wide = np.tile(np.linspace(0, 65535, 16).astype(">u2"), (16, 1))
    shown = grey(png([row.tobytes() for row in wide], 16, 0, b"\0\0"))
    assert np.array_equal(shown[0], [255, *(wide[0, 1:].astype(int) * 255 // 65535)])
    assert np.array_equal(grey(png([bytes(range(16))] * 16, 8, 0, b"\0\5"))[0], [*range(5), 255, *range(6, 16)])
    four = bytes(2 * k << 4 | 2 * k + 1 for k in range(8))
    assert np.array_equal(grey(png([four] * 16, 4, 0, b"\0\3"))[0], [255 if k == 3 else 17 * k for k in range(16)])
    two = bytes([0b00011011] * 4)
    assert np.array_equal(grey(png([two] * 16, 2, 0, b"\0\1"))[0], [0, 255, 170, 255] * 4)
    assert (grey(png([b"\x0f\x0f"] * 16, 1, 0, b"\0\0")) == 255).all()
    assert np.array_equal(grey(png([b"\x0f\x0f"] * 16, 1, 0, b"\0\1"))[0, :8], [0] * 4 + [255] * 4)


def test_transparent_colour():
    row = bytes([255, 0, 0, 0, 255, 0] * 8)
    shown = colour(png([row] * 16, 8, 2, struct.pack(">HHH", 255, 0, 0)))
    assert np.array_equal(shown[0, :2], [[255, 255, 255], [0, 255, 0]])
    with pytest.raises(Unreadable, match="16 bits of colour with a transparent colour"):
        colour(png([bytes(96)] * 16, 16, 2, bytes(6)))
    half = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    assert (colour(opened(half, "PNG")) == 127).all()


def test_palettes_with_transparency():
    image = Image.fromarray(RAMP % 2).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    for kind in ("PNG", "GIF"):
        assert np.array_equal(colour(opened(image, kind, transparency=0))[0, :2], [[255, 255, 255], [200, 100, 50]])


def tiff(values: np.ndarray, bits: int, photometric: int) -> Image.Image:
    """A TIFF made by hand, of one strip."""
    data = values.astype("<u2").tobytes() if bits == 16 else _twelve(values)
    tags = [(256, 16), (257, 16), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 16),
            (279, len(data))]  # fmt: skip
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return Image.open(io.BytesIO(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + body + bytes(4)))


def _twelve(values: np.ndarray) -> bytes:
    pairs = values.reshape(-1, 2)
    return b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs.tolist())


def test_tiffs_of_twelve_bits_and_where_white_is_nought():
    assert np.array_equal(grey(tiff(RAMP.astype(int) * 257, 16, 1)), RAMP)
    assert np.array_equal(grey(tiff(RAMP.astype(int) * 257, 16, 0)), 255 - RAMP)
    twelve = RAMP.astype(int) * 16 + 15
    assert np.array_equal(grey(tiff(twelve, 12, 1)), twelve * 255 // 4095)


@pytest.mark.parametrize("greatest", [1, 15, 255, 1023, 65535])
def test_greymaps_of_every_depth(greatest):
    row = np.linspace(0, greatest, 16).astype(int)
    text = f"P2 16 16 {greatest}\n" + " ".join(map(str, np.tile(row, 16)))
    assert np.abs(grey(Image.open(io.BytesIO(text.encode())))[3] - row * 255 / greatest).max() < 1


def test_sixteen_bits_of_jpeg_2000():
    assert np.array_equal(grey(opened(make("I;16"), "JPEG2000")), RAMP)


def test_the_reason_is_told(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(b"no picture")
    with pytest.raises(Unreadable, match="no format that is known"):
        read(lambda: Image.open(path))
    with pytest.raises(Unreadable, match="No such file"):
        read(lambda: Image.open(tmp_path / "none.png"))
    Image.new("L", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Unreadable, match="4096 pixels"):
        read(lambda: Image.open(path))

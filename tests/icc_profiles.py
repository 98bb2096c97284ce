"""Colour profiles made by hand, and the sRGB values that follow from their definition (ICC.1:2001-04)."""

from __future__ import annotations

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
SRGB = np.array([[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169],
                 [0.0139322, 0.0971045, 0.7141733]])  # linear sRGB → XYZ under D50
WIDE = np.array([[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197],
                 [0.0194811, 0.0608902, 0.7448387]])  # Adobe RGB (1998) likewise
"""Matrices to XYZ under D50, by Lindbloom."""


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256)) + b"\0\0"


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"made by hand\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78), b"cprt": b"text\0\0\0\0" + text,
            b"wtpt": _xyz(*D50), **tags}  # fmt: skip
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4s4s", start + len(data), bytes(4), b"\x02\x10\0\0") + b"mntr" + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return head.ljust(128, b"\0") + table + data


def rgb_profile(matrix: np.ndarray = WIDE, gamma: float = 2.19921875) -> bytes:
    """RGB with primaries as columns of `matrix`, XYZ under D50, and a power law. By default Adobe RGB (1998)."""
    columns = {name: _xyz(*matrix[:, number]) for number, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    return _profile(b"RGB ", b"XYZ ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma)))


def grey_profile(gamma: float = 1.0) -> bytes:
    """Grey by a power law; by default proportional to light."""
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """Ink of which only black counts: lightness L* falls in proportion to K."""
    nodes = [value for ink in range(16) for value in (0 if ink & 1 else 0xFF00, 0x8000, 0x8000)]  # K varies fastest
    straight = struct.pack(">2H", 0, 65535)
    table = b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">2H", 2, 2)
    table += 4 * straight + struct.pack(">48H", *nodes) + 3 * straight
    return _profile(b"CMYK", b"Lab ", {b"A2B0": table})


def encoded(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB as values of 0 … 255 (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def rgb_as_srgb(values: np.ndarray, matrix: np.ndarray = WIDE, gamma: float = 2.19921875) -> np.ndarray:
    """sRGB of (…, 3) values of 0 … 255 under `rgb_profile`, colours beyond sRGB clipped channel by channel."""
    return encoded((values / 255.0) ** gamma @ matrix.T @ np.linalg.inv(SRGB).T)

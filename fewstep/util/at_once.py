"""How many samples a network is given at once where nobody has said it, and no stored result depends on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

BYTES = 4 << 30
"""What a network may take for all of them together."""
_PER_NUMBER = 1 << 10   # an autoencoder at its widest: some hundred channels, several times, for three of a pixel


def at_once(shape: Sequence[int]) -> int:
    """How many samples of this shape (of what is decoded, not of the state) are drawn and decoded together: 341 images
    of 64 pixels, 5 of 512, 1 of 1024."""
    return max(1, BYTES // (_PER_NUMBER * math.prod(shape)))

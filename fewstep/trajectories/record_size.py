"""How many samples a record of a trajectory set holds where that is left open: one rule. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence

AUTO_BYTES = 4 << 20
"""Of the samples and states in one record, at most."""
AUTO_SAMPLES = 256
"""In one record, at most."""
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of one number as it is stored, by `dtype`."""


def auto_record_size(shape: Sequence[int], states: int, dtype: str) -> int:
    """Samples of a record: the largest power of two whose bytes and number are within the bounds above, at least 1.

    A record is also the teacher's batch: 16 latents of SDXL at 1024 pixels, 256 digits, one video.

    Args:
        shape: of a sample. states: that are stored with each. dtype: in which they are stored.
    """
    each = math.prod(shape) * (1 + states) * ITEM_BYTES[dtype]
    return 1 << (max(1, min(AUTO_SAMPLES, AUTO_BYTES // each)).bit_length() - 1)

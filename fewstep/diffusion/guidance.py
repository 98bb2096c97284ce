"""Guidance scales, and what they cost: one number, or one for every condition that a label adds.

One number s is u + s (c - u) (Ho & Salimans, 2207.12598). Several, weakest condition first, guide each condition by
itself: u + s1 (c1 - u) + s2 (c12 - c1) + ... (Brooks et al., InstructPix2Pix, 2211.09800, eq. 3). Equal ones telescope
to the one number. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

Scales = float | Annotated[tuple[float, ...], Field(min_length=1)]
"""As settings have it."""
Scale = Annotated[float, Field(ge=0)]
SampledScales = Scale | Annotated[tuple[Scale, ...], Field(min_length=1)]
"""The same where samples are drawn by it: none is negative."""


def is_guided(scales: Any) -> bool:
    """Whether these scales (a number, several, or a tensor of one per sample) change the plain prediction."""
    if isinstance(scales, Sequence):
        return any(scale != 1 for scale in scales)
    return not isinstance(scales, int | float) or scales != 1


def calls(scales: Any) -> int:
    """Network evaluations of one prediction: without guidance 1, else one more than there are scales."""
    if not is_guided(scales):
        return 1
    return 1 + (len(scales) if isinstance(scales, Sequence) else 1)


def told(scales: Scales) -> str:
    """As people write it: 2, or 1.5, 3."""
    return ", ".join(f"{scale:g}" for scale in (scales if isinstance(scales, Sequence) else [scales]))

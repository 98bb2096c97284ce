"""A prompt, and the split it belongs to. Neither torch nor numpy here: what decides before any work reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fewstep.util.errors import SettingsError
from fewstep.util.hashing import canonical_json, sha256_bytes

SPLITS = ("train", "fit", "test")
"""train: for networks. fit: for the features that metrics use. test: for reference statistics and, of prompts, for what
models are asked for when they are judged."""


@dataclass(frozen=True)
class Prompt:
    """What a sample is asked for. Two prompts of equal text, negative text, size and image are the same prompt.

    Attributes:
        text: not empty.
        negative: what it is guided away from; None leaves the teacher's own null condition.
        size: (height, width) in pixels; None leaves the teacher's.
        group: name under which figures are also told; None belongs to no group.
        image: SHA-256 of the image that it is asked for with; None where texts are all that is asked for.
    """

    text: str
    negative: str | None = None
    size: tuple[int, int] | None = None
    group: str | None = field(default=None, compare=False)
    image: str | None = None


def split_at(digest: str, shares: Mapping[str, float]) -> str:
    """The split that a SHA-256 falls into; `shares` of each of `SPLITS` add up to 1."""
    place, edge = int(digest[:16], 16) / 2.0**64, 0.0
    for name in SPLITS:
        edge += shares[name]
        if place < edge:
            return name
    return next(name for name in reversed(SPLITS) if shares[name] > 0)


def require_prompts(counts: Mapping[str, int], splits: Iterable[str]) -> None:
    """Raises SettingsError for one of `splits` without a prompt. counts: of prompts by split."""
    for name in splits:
        if not counts[name]:
            told = ", ".join(f"{count} in {split}" for split, count in counts.items())
            raise SettingsError(f"there is no prompt in the {name} split ({told}); each has its split by the hash of "
                                "its text", hint=f"give more prompts, or raise data.split.{name}")  # fmt: skip


def split_of(prompt: Prompt, shares: Mapping[str, float]) -> str:
    """The split of a prompt: a function of its text alone, so that equal texts never stand on both sides.

    Args:
        shares: share of each of `SPLITS`; they add up to 1.
    """
    return split_at(sha256_bytes(canonical_json(prompt.text).encode()), shares)

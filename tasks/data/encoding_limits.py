"""What a teacher's texts and settings are held to before anything is encoded, by the stage and before a run begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from fewstep.data.prompt import Prompt
from fewstep.families.family import Family
from fewstep.families.sized_fields import SizedFields
from fewstep.util.errors import SettingsError
from fewstep.util.pixel_sizes import size_text
from tasks.config.schema import Encode

_NAMED = 5


def require_own_size(settings: Encode, sizes: Sequence[tuple[int, int]]) -> None:
    """Raises SettingsError for a size of the settings that is not the first of the data's sizes."""
    told = settings.height, settings.width
    if sizes and any(one not in (None, side) for one, side in zip(told, sizes[0], strict=True)):
        raise SettingsError(f"encode.height and encode.width are not those of the first of data.sizes, "
                            f"{size_text(sizes[0])}", hint="leave them out: data.sizes says the same")


def require_negatives(settings: Encode, family: Family, prompts: Iterable[Prompt]) -> None:
    """Raises SettingsError for a negative text, of the settings or of a prompt, that nothing reads."""
    if settings.negative_prompt and family.guidance is None:
        raise SettingsError(f"encode.negative_prompt: {family.pipeline} has no guidance that would read it")
    for prompt in prompts:
        if prompt.negative is not None and not (family.fields and family.guidance is not None):
            raise SettingsError(f"prompt {prompt.text[:60]!r} has a negative one, and {family.pipeline} has "
                                "no guidance that would read it", hint="take the column negative out")  # fmt: skip


def count_truncated(pipe: Any, family: Family, texts: Sequence[str], share: float,
                    warn: Callable[[str], None]) -> int:  # fmt: skip
    """How many texts are longer than every tokenizer takes. Raises SettingsError for more than this share of them."""
    tokenizers = [part for name, part in pipe.components.items() if name.startswith("tokenizer") and part]
    most = family.arguments.get("max_sequence_length")
    limits = [(tokenizer, most or tokenizer.model_max_length) for tokenizer in tokenizers]
    long = [text for text in texts
            if limits and all(len(tokenizer(text).input_ids) > limit for tokenizer, limit in limits)]  # fmt: skip
    if not long:
        return 0
    tokens = max(limit for _, limit in limits)
    told = f"{len(long)} of {len(texts)} prompts are longer than the {tokens} tokens"
    named = "; ".join(f"{text[:60]!r}" for text in long[:_NAMED])
    if len(long) > share * len(texts):
        raise SettingsError(f"{told} that the teacher reads: {named}",
                            hint="shorten them, or raise encode.max_truncated_share")  # fmt: skip
    warn(f"{told} that the teacher reads, the rest is cut off: {named}")
    return len(long)


def require_bytes(needed: int, settings: Encode, told: str = "would take") -> None:
    """Raises SettingsError for a set above the size allowed."""
    if needed > settings.max_bytes:
        raise SettingsError(
            f"the encoded set {told} {needed / 1e9:.3g} GB, encode.max_bytes allows "
            f"{settings.max_bytes / 1e9:.3g} GB",
            hint="raise encode.max_bytes, set encode.dtype to bfloat16, or lower encode.max_sequence_length",
        )


def condition_bytes(family: Family, settings: Encode) -> int:
    """What one row of conditions takes on disk."""
    fields = SizedFields(family)
    return sum(fields.numbers(name) * _width(one.dtype, settings) for name, one in family.fields.items())


def state_bytes(family: Family, settings: Encode) -> int:
    """What one state takes on disk."""
    return math.prod(family.state) * _width("float32", settings)


def _width(dtype: str, settings: Encode) -> int:
    kind, stored = getattr(torch, dtype), getattr(torch, settings.dtype)
    return stored.itemsize if kind.is_floating_point else kind.itemsize

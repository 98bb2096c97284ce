"""The conditions of prompts, recorded from the calls that a pipeline makes of its denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.conditions import TensorTable
from fewstep.diffusion.text_padding import is_mask
from fewstep.families.call_forms import CallForms
from fewstep.families.family import Family
from fewstep.families.recording import first_step
from fewstep.families.state_forms import beside_state
from fewstep.families.text_lengths import own_rows
from fewstep.families.trial import call_arguments
from fewstep.util.errors import SettingsError


def record_conditions(pipe: Any, family: Family, prompts: Mapping[str, list[Any]], count: int,
                      seeds: Sequence[int] | None = None) -> dict[str, Tensor]:  # fmt: skip
    """The tensors (count, …), by keyword, that the pipeline makes of `count` conditions. On the CPU.

    prompts: lists of `count`, by argument of the pipeline's call (prompt, image, …). seeds: of their generators, by
    default 0 … count − 1: what a pipeline draws of an image (its place in the autoencoder's distribution) is drawn from
    there, behind the noise.
    """
    if family.images is not None or family.call.ragged:  # not every pipeline takes several images
        return _one_by_one(_conditions, pipe, family, prompts, count, seeds)
    return _conditions(pipe, family, prompts, count, seeds)


def record_nulls(pipe: Any, family: Family, prompts: Mapping[str, list[Any]], count: int,
                 seeds: Sequence[int] | None = None) -> dict[str, Tensor] | None:  # fmt: skip
    """The tensors (count, …) that stand for no condition beside `prompts`, among them negative prompts; None where the
    pipeline is never guided. Images stand beside both. Raises SettingsError where neither half of its batch is the
    condition's."""
    if family.guidance is None:
        return None
    if family.images is not None or family.call.ragged:
        return _one_by_one(_nulls, pipe, family, prompts, count, seeds)
    return _nulls(pipe, family, prompts, count, seeds)


def _nulls(pipe: Any, family: Family, prompts: Mapping[str, list[Any]], count: int,
           seeds: Sequence[int] | None) -> dict[str, Tensor]:  # fmt: skip
    positive = {name: value for name, value in prompts.items() if not name.startswith("negative")}
    plain = _conditions(pipe, family, positive, count, seeds)
    step = first_step(pipe, call_arguments(pipe, {**family.arguments, **prompts}, guided=True), count, seeds=seeds)
    if family.guidance == "sequential":
        halves = [_of_call(family, call, step.state, slice(0, count)) for call in step.calls[:2]]
    else:
        parts = (slice(0, count), slice(count, None))
        halves = [_of_call(family, step.calls[0], step.state, part) for part in parts]
    equal = [all(_close(half[name], plain[name]) for name in plain) for half in halves]
    if not any(equal):
        raise SettingsError(f"{family.pipeline}: neither branch of its guidance is given the condition itself")
    return halves[0] if equal[1] else halves[1]


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two are equal, but for the last bits of what is computed in batches of another size."""
    return torch.equal(one, other) or one.is_floating_point() and torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def _conditions(pipe: Any, family: Family, prompts: Mapping[str, Any], count: int,
                seeds: Sequence[int] | None) -> dict[str, Tensor]:  # fmt: skip
    step = first_step(pipe, call_arguments(pipe, {**family.arguments, **prompts}, guided=False), count, seeds=seeds)
    return _of_call(family, step.calls[0], step.state, slice(0, count))


def _one_by_one(record: Any, pipe: Any, family: Family, prompts: Mapping[str, list[Any]], count: int,
                seeds: Sequence[int] | None) -> dict[str, Tensor]:  # fmt: skip
    parts = []
    for k, seed in enumerate(range(count) if seeds is None else seeds):
        image = {} if family.images is None else {name: prompts[name][k] for name in family.images.names}
        texts = {name: [value[k]] for name, value in prompts.items() if name not in image}
        images = family.images.of(image, 1) if image else {}
        parts.append(record(pipe, family, {**texts, **images}, 1, [seed]))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def table_of(pipe: Any, family: Family, prompts: list[str], negative: str | None = None,
             images: Mapping[str, list[Any]] | None = None,
             seeds: Sequence[int] | None = None) -> TensorTable:  # fmt: skip
    """The conditions of a few prompts in memory, with null conditions where the pipeline is guided: for tests, `sample`
    and small sets; the encode stage writes large ones.

    images: lists as long as `prompts`, by argument; by default something that anything would do for, to look at shapes
    with. seeds: see `record_conditions`.
    """
    given: dict[str, list[Any]] = {"prompt": prompts}
    if family.images is not None:
        given |= images or {name: [image] * len(prompts) for name, image in family.images.some().items()}
    rows = record_conditions(pipe, family, given, len(prompts), seeds)
    kept = len(prompts) if family.images is not None else 1     # images stand beside no text too: a null for each
    beside = {name: value[:kept] for name, value in given.items()}
    null = record_nulls(pipe, family, beside | ({} if negative is None else {"negative_prompt": [negative] * kept}),
                        kept, seeds and seeds[:kept])  # fmt: skip
    if null is None:
        return TensorTable(rows, torch.arange(len(prompts)))
    nulls = torch.arange(len(prompts), len(prompts) + kept).expand(len(prompts)).clone()
    return TensorTable({name: torch.cat([value, null[name]]) for name, value in rows.items()}, nulls)


def _of_call(family: Family, call: Mapping[str, Any], state: Tensor, rows: slice) -> dict[str, Tensor]:
    call = CallForms(family.call.listed, family.call.repeated).of(call)
    masks = {name: call[name][rows].detach().cpu() for name in family.call.ragged if is_mask(name) and name in call}
    whole = max((call[name].shape[1] for name in family.call.ragged if name in call and call[name].ndim > 1), default=0)
    found: dict[str, Tensor] = {}
    for name, one in family.fields.items():
        if name == family.call.joined:
            given = call[family.call.state]
            given = given if family.call.added is None else given.squeeze(family.call.added)
            found[name] = beside_state(given, state, family.call.joined_along)[rows]
        elif name == family.call.still:
            found[name] = call[family.call.state][rows][:, : one.shape[0]].detach().cpu().clone()
        elif name in call:
            value = call[name][rows].detach().cpu().clone()
            ragged = name in family.call.ragged and len(one.shape) > 0
            found[name] = own_rows(name, value, one.shape[0], masks) if ragged else value
        elif name in family.call.ragged and is_mask(name):   # left out where all tokens are a text's own
            own = torch.ones((len(call[family.call.state][rows]), whole), dtype=getattr(torch, one.dtype))
            found[name] = own_rows(name, own, one.shape[0], {})
        else:
            raise SettingsError(f"{family.pipeline}: its denoiser was given no {name!r} this time")
        if tuple(found[name].shape[1:]) != one.shape:
            raise SettingsError(f"{family.pipeline}: its denoiser is given {name!r} of shape "
                                f"{tuple(found[name].shape[1:])} now and {one.shape} in another call, by its texts or "
                                "their number", hint="where its call takes an argument that pads texts to one length, "
                                "or masks them, set it in encode.arguments")  # fmt: skip
    return found

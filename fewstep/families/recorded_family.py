"""A family found by recording one of its pipelines: which of the denoiser's arguments are state, time and condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fewstep.diffusion.network_call import JOINED, LENGTH, STILL, NetworkCall
from fewstep.families.call_forms import CallForms
from fewstep.families.family import Family, Field, Form, SampleSize, sized
from fewstep.families.image_arguments import image_inputs
from fewstep.families.recorded_conditions import record_conditions
from fewstep.families.recording import (
    STATES,
    TIMES,
    UNGUIDED,
    FirstStep,
    call_parameters,
    keyword,
    part_of,
    per_sample,
    structure,
)
from fewstep.families.state_forms import added_dimension, beside_state, joined_dimension
from fewstep.families.text_lengths import text_lengths
from fewstep.families.time_relation import time_relation
from fewstep.families.trial import (
    COUNTS,
    call_arguments,
    default_scale,
    embedded_scale,
    guided_step,
    probe,
    same,
    told_size,
    tried,
    unguided_scale,
)
from fewstep.util.config import unknown
from fewstep.util.errors import SettingsError
from fewstep.util.pixel_sizes import size_text

SCHEDULE = frozenset({"num_inference_steps", "device", "sigmas", "mu"})
"""What a pipeline may tell its scheduler of the steps: their number, and even noise levels."""


def record_family(pipe: Any, arguments: Mapping[str, Any] | None = None,
                  sizes: Sequence[tuple[int, int]] = ()) -> Family:  # fmt: skip
    """The family of a stock pipeline, whose denoiser may lie on meta.

    arguments: of the pipeline's call, alike for all samples: height, width, num_frames, max_sequence_length, …
    sizes: (height, width) of samples in place of these, the first being the family's own; empty: all have one size.
    Raises SettingsError, naming the pipeline and what was seen, where its denoiser's call cannot be replayed from a
    state, a time and a condition, or where more than the states changes with the size.
    """
    if not sizes:
        return _recorded(pipe, dict(arguments or {}))
    own, *others = [_recorded(pipe, dict(arguments or {}), pixels) for pixels in sizes]
    found = [_further(own, other, pixels) for pixels, other in zip(sizes[1:], others, strict=True)]
    by_image = found and "height" not in own.arguments
    return replace(own, sizes=tuple(found), own_pixels=tuple(sizes[0]) if by_image else None)


def _recorded(pipe: Any, fixed: dict[str, Any], pixels: tuple[int, int] | None = None) -> Family:
    """The family of one size; pixels: (height, width) of its samples, where they are asked for."""
    if pixels is not None and (told_size(pipe) or not image_inputs(type(pipe))):
        fixed = sized(fixed, pixels)
    for name in fixed:
        if name not in call_parameters(pipe):  # some pipelines swallow any keyword
            raise SettingsError(unknown(f"argument of {type(pipe).__name__}", name, tuple(call_parameters(pipe))))
    part = part_of(pipe)
    images, plain = tried(pipe, fixed, pixels)
    forms = CallForms.seen(plain[0].calls[0], plain[1].calls[0], COUNTS)
    _require_one_branch(pipe, forms)
    plain = [forms.of_step(step) for step in plain]
    (first, *_), (second, *_) = (step.calls for step in plain)
    x, time = keyword(STATES, first, "state"), keyword(TIMES, first, "time")
    asked = call_arguments(pipe, {**fixed, **probe(pipe, COUNTS[0], images)}, guided=False)
    added = added_dimension(first[x], plain[0].state)
    given_state = first[x] if added is None else first[x].squeeze(added)
    tokens = _still_tokens(pipe, first, x, time)
    state = tuple((first[x] if tokens else plain[0].state).shape[1:])
    longest = text_lengths(pipe, asked, first, forms, x)
    _require_plain_schedule(pipe, plain[0].schedule)
    growing = [name for name in per_sample(first, second, COUNTS) if name not in (x, time)]
    growing = [name for name in growing if not name.endswith(LENGTH) or name in longest]
    growing += [name for name in longest if name not in growing]
    unsaid = {name + LENGTH for name in forms.listed} - set(growing)
    constants = {name: _constant(pipe, name, value, second.get(name))
                 for name, value in first.items() if name not in (x, time, *growing, *unsaid)}  # fmt: skip
    each = tuple(name for name, value in constants.items() if _one_each(value, second.get(name)))
    constants |= {name: constants[name][:1] for name in each}
    rows = next((name for name in ("class_labels",) if name in growing and name in call_parameters(pipe)), None)
    scale = embedded_scale(pipe, fixed, growing, images)
    embedding = scale is not None and first[scale].ndim > 1     # which is then recorded as it is at the pipeline's own
    scale = None if embedding else scale
    fields = {name: longest.get(name, first.get(name)) for name in growing if name not in (rows, scale)}
    joined, along = None, 1
    if tokens:
        fields[STILL] = first[x][:, :tokens]
    elif given_state.shape[1:] != plain[0].state.shape[1:]:
        joined, along = JOINED, joined_dimension(pipe, given_state, plain[0].state)
        fields[joined] = beside_state(given_state, plain[0].state, along)
    _require_steady(pipe, first, plain[0], (x, time), tokens, added)
    times = first[time]
    if isinstance(times, Tensor) and len((times[:, tokens:] if tokens else times).unique()) > 1:
        raise SettingsError(f"{type(pipe).__name__}: parts of a sample are at other times than the rest: {time} is "
                            f"{times.unique().tolist()[:3]} in one step")  # fmt: skip
    factor, offset = time_relation(pipe, asked, plain[0], time, COUNTS[0])
    output = plain[0].output
    if output is None and not tokens:
        raise SettingsError(f"{type(pipe).__name__}: what its scheduler is given is no multiple of what its denoiser "
                            "says, unguided")  # fmt: skip
    given_scale = default_scale(pipe)
    call = NetworkCall(
        x, time, rows, tuple(fields), constants, joined, scale,
        float(_first(first[scale])) / given_scale if scale and given_scale else 1.0, given_scale if scale else None,
        tuple(times.shape[1:]) if isinstance(times, Tensor) and times.ndim > 1 and not tokens else (),
        along, plain[0].side, STILL if tokens else None,
        output=1.0 if output is None else output, listed=forms.listed, added=added,
        lists=tuple(name for name in plain[0].lists if name not in forms.listed), repeated=forms.repeated,
        each=each, ragged=tuple(longest),
    )  # fmt: skip
    classes = 0 if rows is None else int(getattr(pipe, part).config.get("num_embeds_ada_norm") or 0)
    described = {name: Field(tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))
                 for name, value in fields.items()}  # fmt: skip
    guided = guided_step(pipe, fixed, COUNTS[0], images)
    guided = None if guided is None else forms.of_step(guided)
    form: Form | None = None
    if guided is not None and len(guided.calls) > 1:
        # FLUX's control network is asked once a step, of the condition: its branch without one is no row of its own
        asked_twice = plain[0].side is None or all(name in guided.calls[1] for name in fields)
        form = "sequential" if asked_twice else None
    elif guided is not None and len(guided.calls[0][x]) == 2 * COUNTS[0]:
        form = "joint"
    prompts = structure(plain[0].prompts, plain[1].prompts, COUNTS)
    family = Family(
        type(pipe).__name__, part, state, call, factor, described, form, classes, fixed, prompts,
        plain[0].schedule.get("sigmas") is not None, _shift(pipe.scheduler.config, plain[0].schedule.get("mu")),
        images, time_offset=offset,
        unguided=(default_scale(pipe) or UNGUIDED) if embedding else unguided_scale(pipe),
    )  # fmt: skip
    if fields and images is None:   # is one prompt alone given the same?
        record_conditions(pipe, family, probe(pipe, 1), 1)
    return family


def _shift(config: Mapping[str, Any], mu: float | None) -> float:
    """How a pipeline shifts the noise levels of a flow; mu: what it told its scheduler of the size of its states."""
    if config.get("use_dynamic_shifting") and mu is not None:
        return float(mu) if config.get("time_shift_type") == "linear" else math.exp(mu)
    found = config.get("flow_shift") if config.get("use_flow_sigmas") else config.get("shift")
    return 1.0 if found is None else float(found)


def _still_tokens(pipe: Any, call: Mapping[str, Any], x: str, time: str) -> int:
    """How many of the first tokens of a sample are at time 0 while all others are at the step's, as those of a given
    first frame; 0 where no such part is."""
    times = call[time]
    if not isinstance(times, Tensor) or times.ndim != 2 or times.shape != call[x].shape[:2] or call[x].ndim != 3:
        return 0
    clean = times == 0
    tokens = int(clean[0].sum())
    known = clean[:, :tokens].all() and not clean[:, tokens:].any() and tokens < times.shape[1]
    return tokens if known and "callback_on_step_end" in call_parameters(pipe) else 0


def _require_steady(pipe: Any, first: Mapping[str, Any], step: FirstStep, changing: tuple[str, str],
                    tokens: int, added: int | None) -> None:  # fmt: skip
    """Raises SettingsError where more than state and time changes from one step to the next, such as what a second
    network says of both: a condition is the same in all steps, and so are a state's first `tokens`, which stand still.
    """
    second, (x, _time) = step.second, changing
    given, other = first[x], None if second is None else second[x]
    if second is None:
        return
    seen = [name for name in {**first, **second}
            if name not in changing and not same(first.get(name), second.get(name))]  # fmt: skip
    if tokens:
        if not same(given[:, :tokens], other[:, :tokens]):
            seen.append(f"first {tokens} tokens of {x}")
    elif added is None and given.shape == other.shape != step.state.shape:
        along = joined_dimension(pipe, given, step.state)
        if not same(beside_state(given, step.state, along), beside_state(other, step.state, along)):
            seen.append(f"what stands beside the state in {x}")
    if seen:
        raise SettingsError(f"{type(pipe).__name__}: its denoiser is given another {', '.join(seen)} in the second "
                            "step; only state and time may change from step to step",
                            hint="a second network beside the denoiser, such as a ControlNet, is not distilled")


def _further(own: Family, other: Family, pixels: tuple[int, int]) -> SampleSize:
    """The size that `other` is recorded at. Raises SettingsError unless the pipeline's call there differs in states,
    constants and the sides of images alone."""
    same_size = {"state": own.state, "arguments": own.arguments, "shift": own.shift}
    image, further = None, {}
    if own.images is not None and other.images is not None:
        image, further = other.images.size, {name: one for name, one in other.fields.items()
                                             if one != own.fields.get(name)}  # fmt: skip
        same_size |= {"images": replace(other.images, size=own.images.size)}
        same_size |= {"fields": {name: own.fields[name] if _same_sides(one, own.fields.get(name)) else one
                                 for name, one in other.fields.items()}}  # fmt: skip
    as_own = replace(other, call=replace(other.call, constants=own.call.constants), **same_size)
    if as_own.to_dict() != own.to_dict():
        raise SettingsError(f"{own.pipeline}: what its denoiser takes at {size_text(pixels)} differs in more than the "
                            "states' size", hint="give samples of one size: data.size")  # fmt: skip
    return SampleSize(pixels, other.state, other.call.constants, image, further)


def _same_sides(one: Field, own: Field | None) -> bool:
    """Whether two fields are alike but for the lengths of their sides."""
    return own is not None and one.dtype == own.dtype and len(one.shape) == len(own.shape)


def _require_one_branch(pipe: Any, forms: CallForms) -> None:
    """Raises SettingsError where the denoiser is given more states than there are samples, unguided."""
    branches = next((forms.repeated[name] for name in STATES if name in forms.repeated), 1)
    if branches > 1:
        raise SettingsError(f"{type(pipe).__name__}: without guidance its denoiser is given {branches} states for "
                            "every sample, as where a second guidance has a branch of its own",
                            hint="where its call has a scale of that, turn it off by encode.arguments, such as "
                                 '{"pag_scale": 0.0}')  # fmt: skip


def _require_plain_schedule(pipe: Any, schedule: Mapping[str, Any]) -> None:
    """Raises SettingsError where the pipeline tells its scheduler more of its steps: then it would not sample a student
    at the times that this was trained at."""
    further = sorted(schedule.keys() - SCHEDULE)
    if further:
        raise SettingsError(f"{type(pipe).__name__}: it tells its scheduler {', '.join(further)} of its own, so "
                            "that it would not step as a student does",
                            hint="save its parts as a pipeline of the same family that leaves the steps to its "
                                 "scheduler")  # fmt: skip


def _constant(pipe: Any, name: str, value: Any, other: Any) -> Any:
    if isinstance(value, Tensor):
        if not isinstance(other, Tensor) or not same(value, other):
            raise SettingsError(f"{type(pipe).__name__}: {name!r} is neither alike for all samples nor one per sample")
        return value.detach().cpu().clone()
    if isinstance(value, str | int | float | bool | list | tuple | type(None)):
        return value
    raise SettingsError(f"{type(pipe).__name__}: the denoiser is given {name!r}, a {type(value).__name__}")


def _one_each(value: Any, other: Any) -> bool:
    """Whether a constant is a list of one item for every sample, all alike."""
    return (isinstance(value, list) and isinstance(other, list) and (len(value), len(other)) == COUNTS
            and all(item == value[0] for item in [*value, *other]))  # fmt: skip


def _first(value: Any) -> float:
    return value.flatten()[0].item() if isinstance(value, Tensor) else value

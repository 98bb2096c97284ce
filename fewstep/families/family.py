"""A family: what a kind of pipeline wants of its denoiser, found by recording one of its pipelines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.diffusion.conditions import TensorTable
from fewstep.diffusion.network_call import JOINED, LENGTH, STILL, NetworkCall, from_json, to_json
from fewstep.diffusion.text_padding import is_mask
from fewstep.families.call_forms import CallForms
from fewstep.families.image_arguments import ImageArguments, image_inputs
from fewstep.families.recording import (
    STATES,
    TIMES,
    UNGUIDED,
    FirstStep,
    call_parameters,
    first_step,
    keyword,
    last_step,
    part_of,
    per_sample,
    structure,
    zeros,
)
from fewstep.families.text_lengths import own_rows, text_lengths
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

Form = Literal["joint", "sequential"]
SCHEDULE = frozenset({"num_inference_steps", "device", "sigmas", "mu"})
"""What a pipeline may tell its scheduler of the steps: their number, and even noise levels."""


@dataclass(frozen=True)
class Field:
    """A tensor of a condition: shape of one row and dtype (torch's name)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class SampleSize:
    """A further size that a pipeline's call is asked for.

    pixels: (height, width) of a sample. state: shape of one state. constants: of the denoiser's call there. image:
    (height, width) of the images that a condition has; None without. fields: of a condition, those that have another
    shape there.
    """

    pixels: tuple[int, int]
    state: tuple[int, ...]
    constants: Mapping[str, Any]
    image: tuple[int, int] | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """What a pipeline's denoiser takes.

    Attributes:
        pipeline: class of the pipeline. part: its denoiser, `unet` or `transformer`.
        state: shape of one state, in the sampler's own layout.
        call: how the denoiser is called.
        time_factor: what the denoiser is given is the scheduler's timestep times this, plus `time_offset`.
        fields: of a condition, by keyword; empty where conditions are labels.
        guidance: how the pipeline evaluates both branches; None for one without a null condition.
        classes: labels of a class-conditional denoiser, 0 for others; the label after them is the null one.
        arguments: of the pipeline's call, under which all this holds (sizes, frames, tokens).
        prompts: shapes of what its `encode_prompt` returns (recording.structure), so that decoding needs no encoder.
        own_sigmas: whether the pipeline gives its scheduler even noise levels 1 … 1/N of its own.
        shift: of a flow's noise levels, as the pipeline samples: t becomes shift t / (1 + (shift − 1) t).
        images: that every condition has beside its text; None without.
        sizes: further sizes of samples, beside the one that all else tells of (aspect buckets).
        own_pixels: (height, width) of samples of its own size, where there are further ones and the pipeline's call is
            told the size by an image alone.
        unguided: guidance scale of the pipeline's call that means none, or under which the fields are recorded.
    """

    pipeline: str
    part: str
    state: tuple[int, ...]
    call: NetworkCall
    time_factor: float
    fields: Mapping[str, Field]
    guidance: Form | None
    classes: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prompts: Any = None
    own_sigmas: bool = False
    shift: float = 1.0
    images: ImageArguments | None = None
    sizes: tuple[SampleSize, ...] = ()
    own_pixels: tuple[int, int] | None = None
    time_offset: float = 0.0
    unguided: float = UNGUIDED

    def at(self, number: int) -> Family:
        """The family as it is at one size: number k ≥ 1 is `sizes[k − 1]`, 0 its own."""
        if not number:
            return self
        size = self.sizes[number - 1]
        arguments = self.arguments if self.own_pixels else _sized(self.arguments, size.pixels)
        images = self.images if size.image is None else replace(self.images, size=size.image)
        return replace(self, state=size.state, call=replace(self.call, constants=size.constants), sizes=(),
                       arguments=arguments, images=images, fields={**self.fields, **size.fields}, own_pixels=None)

    @property
    def pixels(self) -> list[tuple[int, int]]:
        """(height, width) of all sizes by number, where there are several; else empty."""
        if not self.sizes:
            return []
        own = self.own_pixels or (self.arguments["height"], self.arguments["width"])
        return [own, *(size.pixels for size in self.sizes)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "pipeline": self.pipeline, "part": self.part, "state": list(self.state), "call": self.call.to_dict(),
            "time_factor": self.time_factor, "guidance": self.guidance, "classes": self.classes,
            "fields": _fields_to_dict(self.fields),
            "arguments": dict(self.arguments), "prompts": self.prompts, "own_sigmas": self.own_sigmas,
            "shift": self.shift, "images": None if self.images is None else self.images.to_dict(),
            **({"sizes": [_size_to_dict(size) for size in self.sizes]} if self.sizes else {}),
            **({"own_pixels": list(self.own_pixels)} if self.own_pixels else {}),
            **({"time_offset": self.time_offset} if self.time_offset else {}),
            **({"unguided": self.unguided} if self.unguided != UNGUIDED else {}),
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Family:
        """The family that `to_dict` described. Raises SettingsError for another description."""
        try:
            rest = dict(data)
            fields = _fields_from_dict(rest.pop("fields"))
            call, state = NetworkCall.from_dict(rest.pop("call")), tuple(rest.pop("state"))
            images = ImageArguments.from_dict(rest.pop("images", None))
            sizes = tuple(_size_from_dict(size) for size in rest.pop("sizes", ()))
            own = rest.pop("own_pixels", None)
            return Family(**rest, fields=fields, call=call, state=state, images=images, sizes=sizes,
                          own_pixels=own and (int(own[0]), int(own[1])))  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(f"the description of the teacher's family is not understood: {error}") from None


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
        fixed = _sized(fixed, pixels)
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
    added = _added(first[x], plain[0].state)
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
        joined, along = JOINED, _along(pipe, given_state, plain[0].state)
        fields[joined] = _beside(given_state, plain[0].state, along)
    _require_steady(pipe, first, plain[0], (x, time), tokens, added)
    times = first[time]
    if isinstance(times, Tensor) and len((times[:, tokens:] if tokens else times).unique()) > 1:
        raise SettingsError(f"{type(pipe).__name__}: parts of a sample are at other times than the rest: {time} is "
                            f"{times.unique().tolist()[:3]} in one step")  # fmt: skip
    factor, offset = time_relation(pipe, asked, plain[0], time, COUNTS[0])
    if plain[0].output is None and not tokens:
        raise SettingsError(f"{type(pipe).__name__}: what its scheduler is given is no multiple of what its denoiser "
                            "says, unguided")  # fmt: skip
    given_scale = default_scale(pipe)
    call = NetworkCall(
        x, time, rows, tuple(fields), constants, joined, scale,
        float(_first(first[scale])) / given_scale if scale and given_scale else 1.0, given_scale if scale else None,
        tuple(times.shape[1:]) if isinstance(times, Tensor) and times.ndim > 1 and not tokens else (),
        along, plain[0].side, STILL if tokens else None,
        output=1.0 if plain[0].output is None else plain[0].output, listed=forms.listed, added=added,
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


def decoding(pipe: Any, family: Family, states: Tensor, output_type: str) -> Any:
    """What the pipeline returns for states (N, *state) at the end of its sampling, without denoiser and encoders."""
    arguments = call_arguments(pipe, {**family.arguments, **probe(pipe, 1)}, guided=False)
    for name in ("prompt", "class_labels", "batch_size"):
        if name in arguments:
            arguments[name] = len(states) if name == "batch_size" else arguments[name] * len(states)
    if family.images is not None:
        arguments |= family.images.of(family.images.some(), len(states))
    return last_step(pipe, arguments, states, zeros(family.prompts, len(states)), output_type,
                     whole=family.call.still is not None)  # fmt: skip


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
        along = _along(pipe, given, step.state)
        if not same(_beside(given, step.state, along), _beside(other, step.state, along)):
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


def _sized(arguments: Mapping[str, Any], pixels: tuple[int, int]) -> dict[str, Any]:
    height, width = pixels
    return {**arguments, "height": height, "width": width}


def _size_to_dict(size: SampleSize) -> dict[str, Any]:
    constants = {name: to_json(value) for name, value in size.constants.items()}
    seen = {} if size.image is None else {"image": list(size.image), "fields": _fields_to_dict(size.fields)}
    return {"pixels": list(size.pixels), "state": list(size.state), "constants": constants, **seen}


def _size_from_dict(data: Mapping[str, Any]) -> SampleSize:
    height, width = data["pixels"]
    constants = {name: from_json(value) for name, value in data["constants"].items()}
    image = data.get("image")
    return SampleSize((int(height), int(width)), tuple(data["state"]), constants,
                      image and (int(image[0]), int(image[1])), _fields_from_dict(data.get("fields", {})))


def _fields_to_dict(fields: Mapping[str, Field]) -> dict[str, Any]:
    return {name: {"shape": list(one.shape), "dtype": one.dtype} for name, one in fields.items()}


def _fields_from_dict(data: Mapping[str, Any]) -> dict[str, Field]:
    return {name: Field(tuple(one["shape"]), one["dtype"]) for name, one in data.items()}


def _of_call(family: Family, call: Mapping[str, Any], state: Tensor, rows: slice) -> dict[str, Tensor]:
    call = CallForms(family.call.listed, family.call.repeated).of(call)
    masks = {name: call[name][rows].detach().cpu() for name in family.call.ragged if is_mask(name) and name in call}
    whole = max((call[name].shape[1] for name in family.call.ragged if name in call and call[name].ndim > 1), default=0)
    found: dict[str, Tensor] = {}
    for name, one in family.fields.items():
        if name == family.call.joined:
            found[name] = _beside(_sampled(family, call), state, family.call.joined_along)[rows]
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


def _sampled(family: Family, call: Mapping[str, Any]) -> Tensor:
    """The denoiser's state with the sampler's sides."""
    state = call[family.call.state]
    return state if family.call.added is None else state.squeeze(family.call.added)


def _added(x: Tensor, state: Tensor) -> int | None:
    """The dimension, of length 1, that the denoiser's state x has and the sampler's has not; None where x has none."""
    found = [dim for dim in range(1, x.ndim) if x.ndim == state.ndim + 1 and x.shape[dim] == 1
             and x.shape[1:dim] + x.shape[dim + 1 :] == state.shape[1:]]  # fmt: skip
    return found[0] if found else None


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


def _along(pipe: Any, x: Tensor, state: Tensor) -> int:
    """The dimension along which something stands behind the state in the denoiser's input."""
    found = [dim for dim in range(1, state.ndim) if x.ndim == state.ndim and x.shape[dim] != state.shape[dim]]
    if len(found) != 1 or x.shape[found[0]] < state.shape[found[0]]:
        raise SettingsError(
            f"{type(pipe).__name__}: the denoiser is given {tuple(x.shape)} where the scheduler steps "
            f"{tuple(state.shape)}; only further channels are understood"
        )
    return found[0]


def _beside(x: Tensor, state: Tensor, along: int) -> Tensor:
    """What stands behind the state in the denoiser's input, along this dimension."""
    return x.narrow(along, state.shape[along], x.shape[along] - state.shape[along]).detach().cpu().clone()


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

"""A family: what a kind of pipeline wants of its denoiser, found by recording one of its pipelines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.diffusion.conditions import TensorTable
from fewstep.diffusion.network_call import NetworkCall
from fewstep.families.recording import (
    STATES,
    TIMES,
    UNGUIDED,
    FirstStep,
    call_parameters,
    first_step,
    image_inputs,
    keyword,
    last_step,
    part_of,
    per_sample,
    structure,
    zeros,
)
from fewstep.util.config import unknown
from fewstep.util.errors import SettingsError

Form = Literal["joint", "sequential"]
_SCALE = 5.0
_PROBES = ("a red apple", "two blue cars on a road", "a small green tree")
_COUNTS = (2, 3)


@dataclass(frozen=True)
class Field:
    """A tensor of a condition: shape of one row and dtype (torch's name)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Family:
    """What a pipeline's denoiser takes.

    Attributes:
        pipeline: class of the pipeline. part: its denoiser, `unet` or `transformer`.
        state: shape of one state, in the sampler's own layout.
        call: how the denoiser is called.
        time_factor: what the denoiser is given is the scheduler's timestep times this.
        fields: of a condition, by keyword; empty where conditions are labels.
        guidance: how the pipeline evaluates both branches; None for one without a null condition.
        classes: labels of a class-conditional denoiser, 0 for others; the label after them is the null one.
        arguments: of the pipeline's call, under which all this holds (sizes, frames, tokens).
        prompts: shapes of what its `encode_prompt` returns (recording.structure), so that decoding needs no encoder.
        own_sigmas: whether the pipeline gives its scheduler even noise levels 1 … 1/N of its own.
        shift: of a flow's noise levels, as the pipeline samples: t becomes shift t / (1 + (shift − 1) t).
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "pipeline": self.pipeline, "part": self.part, "state": list(self.state), "call": self.call.to_dict(),
            "time_factor": self.time_factor, "guidance": self.guidance, "classes": self.classes,
            "fields": {name: {"shape": list(one.shape), "dtype": one.dtype} for name, one in self.fields.items()},
            "arguments": dict(self.arguments), "prompts": self.prompts, "own_sigmas": self.own_sigmas,
            "shift": self.shift,
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Family:
        """The family that `to_dict` described. Raises SettingsError for another description."""
        try:
            rest = dict(data)
            fields = {name: Field(tuple(one["shape"]), one["dtype"]) for name, one in rest.pop("fields").items()}
            call, state = NetworkCall.from_dict(rest.pop("call")), tuple(rest.pop("state"))
            return Family(**rest, fields=fields, call=call, state=state)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(f"the description of the teacher's family is not understood: {error}") from None


def record_family(pipe: Any, arguments: Mapping[str, Any] | None = None) -> Family:
    """The family of a stock pipeline, whose denoiser may lie on meta.

    arguments: of the pipeline's call, alike for all samples: height, width, num_frames, max_sequence_length, …
    Raises SettingsError, naming the pipeline and what was seen, where its denoiser's call cannot be replayed from a
    state, a time and a condition.
    """
    fixed = dict(arguments or {})
    for name in fixed:
        if name not in call_parameters(pipe):  # some pipelines swallow any keyword
            raise SettingsError(unknown(f"argument of {type(pipe).__name__}", name, tuple(call_parameters(pipe))))
    part = part_of(pipe)
    plain = _tried(pipe, fixed)
    (first, *_), (second, *_) = (step.calls for step in plain)
    x, time = keyword(STATES, first, "state"), keyword(TIMES, first, "time")
    state = tuple(plain[0].state.shape[1:])
    growing = [name for name in per_sample(first, second, _COUNTS) if name not in (x, time)]
    constants = {name: _constant(pipe, name, value, second.get(name))
                 for name, value in first.items() if name not in (x, time, *growing)}  # fmt: skip
    rows = next((name for name in ("class_labels",) if name in growing and not first[name].is_floating_point()), None)
    scale = _embedded_scale(pipe, fixed, growing)
    fields = {name: first[name] for name in growing if name not in (rows, scale)}
    joined = None
    if first[x].shape[1:] != plain[0].state.shape[1:]:
        joined = "joined"
        fields[joined] = _beside(pipe, first[x], plain[0].state)
    _require_steady(pipe, first, plain[0], (x, time))
    factor = float(_first(first[time])) / plain[0].timestep if plain[0].timestep else 1.0
    given_scale = default_scale(pipe)
    call = NetworkCall(
        x, time, rows, tuple(fields), constants, joined, scale,
        float(_first(first[scale])) / given_scale if scale and given_scale else 1.0, given_scale if scale else None,
        tuple(first[time].shape[1:]) if isinstance(first[time], Tensor) and first[time].ndim > 1 else (),
    )  # fmt: skip
    classes = 0 if rows is None else int(getattr(pipe, part).config.get("num_embeds_ada_norm") or 0)
    described = {name: Field(tuple(value.shape[1:]), str(value.dtype).removeprefix("torch."))
                 for name, value in fields.items()}  # fmt: skip
    guided = _guided(pipe, fixed, _COUNTS[0])
    form: Form | None = None
    if guided is not None and len(guided.calls) > 1:
        form = "sequential"
    elif guided is not None and len(guided.calls[0][x]) == 2 * _COUNTS[0]:
        form = "joint"
    prompts = structure(plain[0].prompts, plain[1].prompts, _COUNTS)
    return Family(
        type(pipe).__name__, part, state, call, factor, described, form, classes, fixed, prompts,
        plain[0].schedule.get("sigmas") is not None, _shift(pipe.scheduler.config, plain[0].schedule.get("mu")),
    )  # fmt: skip


def record_conditions(pipe: Any, family: Family, prompts: Mapping[str, list[Any]], count: int) -> dict[str, Tensor]:
    """The tensors (count, …), by keyword, that the pipeline makes of `count` conditions.

    prompts: lists of `count`, by argument of the pipeline's call (prompt, image, …). On the CPU.
    """
    step = first_step(pipe, _arguments(pipe, {**family.arguments, **prompts}, guided=False), count)
    return _of_call(pipe, family, step.calls[0], step.state, slice(0, count))


def record_nulls(pipe: Any, family: Family, prompts: Mapping[str, list[Any]], count: int) -> dict[str, Tensor] | None:
    """The tensors (count, …) that stand for no condition beside `prompts`, among them negative prompts; None where the
    pipeline is never guided. Raises SettingsError where neither half of its batch is the condition's."""
    if family.guidance is None:
        return None
    plain = record_conditions(pipe, family, {k: v for k, v in prompts.items() if not k.startswith("negative")}, count)
    step = first_step(pipe, _arguments(pipe, {**family.arguments, **prompts}, guided=True), count)
    if family.guidance == "sequential":
        halves = [_of_call(pipe, family, call, step.state, slice(0, count)) for call in step.calls[:2]]
    else:
        parts = (slice(0, count), slice(count, None))
        halves = [_of_call(pipe, family, step.calls[0], step.state, part) for part in parts]
    same = [all(_equal(half[name], plain[name]) for name in plain) for half in halves]
    if not any(same):
        raise SettingsError(f"{family.pipeline}: neither branch of its guidance is given the condition itself")
    return halves[0] if same[1] else halves[1]


def table_of(pipe: Any, family: Family, prompts: list[str], negative: str | None = None) -> TensorTable:
    """The conditions of a few prompts in memory, with one null condition where the pipeline is guided: for tests,
    `sample` and small sets; the encode stage writes large ones."""
    rows = record_conditions(pipe, family, {"prompt": prompts}, len(prompts))
    first = {"prompt": prompts[:1]} | ({} if negative is None else {"negative_prompt": [negative]})
    null = record_nulls(pipe, family, first, 1)
    if null is None:
        return TensorTable(rows, torch.arange(len(prompts)))
    return TensorTable(
        {name: torch.cat([value, null[name]]) for name, value in rows.items()},
        torch.full((len(prompts),), len(prompts)),
    )


def decoding(pipe: Any, family: Family, states: Tensor, output_type: str) -> Any:
    """What the pipeline returns for states (N, *state) at the end of its sampling, without denoiser and encoders."""
    arguments = _arguments(pipe, {**family.arguments, **_probe(pipe, 1)}, guided=False)
    for name in ("prompt", "class_labels", "batch_size"):
        if name in arguments:
            arguments[name] = len(states) if name == "batch_size" else arguments[name] * len(states)
    return last_step(pipe, arguments, states, zeros(family.prompts, len(states)), output_type)


def default_scale(pipe: Any) -> float | None:
    """The guidance scale that a pipeline samples with where nobody says one."""
    parameter = call_parameters(pipe).get("guidance_scale")
    value = parameter.default if parameter is not None else None
    return float(value) if isinstance(value, int | float) else None


def _shift(config: Mapping[str, Any], mu: float | None) -> float:
    """How a pipeline shifts the noise levels of a flow; mu: what it told its scheduler of the size of its states."""
    if config.get("use_dynamic_shifting") and mu is not None:
        return float(mu) if config.get("time_shift_type") == "linear" else math.exp(mu)
    found = config.get("flow_shift") if config.get("use_flow_sigmas") else config.get("shift")
    return 1.0 if found is None else float(found)


def _tried(pipe: Any, fixed: Mapping[str, Any]) -> list[FirstStep]:
    """First steps for both numbers of samples, from texts, classes or nothing."""
    try:
        return [first_step(pipe, _arguments(pipe, {**fixed, **_probe(pipe, count)}, guided=False), count, second=True)
                for count in _COUNTS]  # fmt: skip
    except SettingsError as error:
        images = image_inputs(type(pipe))
        if not images:
            raise
        raise SettingsError(
            f"{type(pipe).__name__} takes {', '.join(images)}, and a condition here is a text or a class; without "
            f"them its call ends in: {str(error).removeprefix(f'{type(pipe).__name__}: ')}",
            hint="take a pipeline that samples from a text alone; networks that also see images are not distilled",
        ) from error


def _require_steady(pipe: Any, first: Mapping[str, Any], step: FirstStep, changing: tuple[str, str]) -> None:
    """Raises SettingsError where more than state and time changes from one step to the next, such as what a second
    network says of both: a condition is the same in all steps."""
    second, (x, _time) = step.second, changing
    if second is None:
        return
    seen = [name for name in {**first, **second}
            if name not in changing and not _same(first.get(name), second.get(name))]  # fmt: skip
    if first[x].shape == second[x].shape:
        further = (given[x].flatten(1)[:, step.state[0].numel() :] for given in (first, second))
        if not _same(*further):
            seen.append(f"what stands beside the state in {x}")
    if seen:
        raise SettingsError(f"{type(pipe).__name__}: its denoiser is given another {', '.join(seen)} in the second "
                            "step; only state and time may change from step to step",
                            hint="a second network beside the denoiser, such as a ControlNet, is not distilled")


def _guided(pipe: Any, fixed: Mapping[str, Any], count: int) -> FirstStep | None:
    """The first step under guidance; None for a pipeline whose call has none."""
    if not {"guidance_scale", "true_cfg_scale"} & call_parameters(pipe).keys():
        return None
    return first_step(pipe, _arguments(pipe, {**fixed, **_probe(pipe, count)}, guided=True), count)


def _probe(pipe: Any, count: int) -> dict[str, Any]:
    """Conditions to record a pipeline with."""
    known = call_parameters(pipe)
    if "class_labels" in known:
        return {"class_labels": list(range(1, count + 1))}
    if "prompt" in known:
        return {"prompt": list(_PROBES[:count])}
    return {"batch_size": count}


def _arguments(pipe: Any, arguments: Mapping[str, Any], guided: bool) -> dict[str, Any]:
    """Arguments of a call that is guided or not; an embedded scale keeps its default."""
    known = call_parameters(pipe)
    found = dict(arguments)
    count = next((len(value) for value in found.values() if isinstance(value, list)), found.get("batch_size", 1))
    if "true_cfg_scale" in known:
        if guided:
            found |= {"true_cfg_scale": _SCALE}
            found.setdefault("negative_prompt", [""] * count)
        else:
            found |= {"true_cfg_scale": UNGUIDED}
    elif "guidance_scale" in known and not embeds_guidance(pipe):
        found["guidance_scale"] = _SCALE if guided else UNGUIDED
    if not guided:
        found = {name: value for name, value in found.items() if not name.startswith("negative")}
    return found


def embeds_guidance(pipe: Any) -> bool:
    """Whether the denoiser takes the guidance scale as an input."""
    config = getattr(pipe, part_of(pipe)).config
    return bool(config.get("guidance_embeds")) or bool(config.get("time_cond_proj_dim"))


def _embedded_scale(pipe: Any, fixed: Mapping[str, Any], growing: list[str]) -> str | None:
    """The keyword whose value follows the pipeline's guidance scale."""
    if not embeds_guidance(pipe) or "guidance_scale" not in call_parameters(pipe):
        return None
    calls = [first_step(pipe, {**_arguments(pipe, {**fixed, **_probe(pipe, 2)}, guided=False), "guidance_scale": scale},
                        2).calls[0] for scale in (2.0, 4.0)]  # fmt: skip
    changed = [name for name in growing if not _equal(calls[0][name], calls[1][name])]
    if len(changed) > 1:
        raise SettingsError(f"{type(pipe).__name__}: {', '.join(changed)} follow the guidance scale; one is understood")
    return changed[0] if changed else None


def _of_call(pipe: Any, family: Family, call: Mapping[str, Any], state: Tensor, rows: slice) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in family.fields:
        if name == family.call.joined:
            found[name] = _beside(pipe, call[family.call.state][rows], state)
        elif name in call:
            found[name] = call[name][rows].detach().cpu().clone()
        else:
            raise SettingsError(f"{family.pipeline}: its denoiser was given no {name!r} this time")
    return found


def _beside(pipe: Any, x: Tensor, state: Tensor) -> Tensor:
    """What stands beside the state in the denoiser's input, along dimension 1."""
    if x.ndim != state.ndim or x.shape[2:] != state.shape[2:] or x.shape[1] <= state.shape[1]:
        raise SettingsError(
            f"{type(pipe).__name__}: the denoiser is given {tuple(x.shape)} where the scheduler steps "
            f"{tuple(state.shape)}; only further channels are understood"
        )
    return x[:, state.shape[1] :].detach().cpu().clone()


def _constant(pipe: Any, name: str, value: Any, other: Any) -> Any:
    if isinstance(value, Tensor):
        if not isinstance(other, Tensor) or not _equal(value, other):
            raise SettingsError(f"{type(pipe).__name__}: {name!r} is neither alike for all samples nor one per sample")
        return value.detach().cpu().clone()
    if isinstance(value, str | int | float | bool | list | tuple | type(None)):
        return value
    raise SettingsError(f"{type(pipe).__name__}: the denoiser is given {name!r}, a {type(value).__name__}")


def _first(value: Any) -> float:
    return value.flatten()[0].item() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _equal(one, other)
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other))

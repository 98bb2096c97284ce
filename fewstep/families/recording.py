"""What a stock pipeline hands to its denoiser in the first step: recorded, and split into state, time, condition and
constants. No family is named here; see FAMILIES in docs/architecture.md."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.network_call import flattened, sequences
from fewstep.diffusion.side_call import SideCall
from fewstep.families.parts_placement import autoencoder_of
from fewstep.util.errors import SettingsError

STATES = ("sample", "hidden_states", "x")
TIMES = ("timestep", "timesteps", "t")
PARTS = ("transformer", "unet", "prior")
SIDES = ("controlnet",)
"""Parts that are called beside the denoiser in every step, and whose outputs it is given."""
ENCODINGS = ("encode_prompt", "_encode_prompt")
"""Methods that make embeddings of texts; the later ones in older pipelines alone."""
UNGUIDED = 1.0
_NUMBERS = 251  # different ones in a denoiser's output, a prime, so that no side of it repeats them
_ROUNDING = 1e-4
_FULL = 0.99    # a strength above means all steps: diffusers has 0.9999 for one that keeps the image's latents


class _Stop(Exception):
    """The first step is over: nothing more is to be learnt from this call of the pipeline."""


class _Output(tuple):
    """What a denoiser returns, in both forms that pipelines read it in."""

    @property
    def sample(self) -> Tensor:
        return self[0]


@dataclass
class FirstStep:
    """The first step of a pipeline's call.

    calls: arguments of each call of the denoiser, by path (`flattened`). state: what the scheduler steps (N, …).
    timestep: the scheduler's own. prompts: what `encode_prompt` returned, None in a pipeline without it. schedule: what
    the pipeline told the scheduler of its steps: arguments of `set_timesteps`, by name. second: the first call of the
    next step, where that was asked for, second_timestep the scheduler's there. side: the call of a network beside the
    denoiser, whose own arguments stand among the denoiser's as `part.keyword`. lists: paths of the first call's
    sequences that are lists. stepped: what the scheduler was given, and what stood for the denoiser's first output.
    """

    calls: list[dict[str, Any]]
    state: Tensor
    timestep: float
    prompts: Any = None
    schedule: Mapping[str, Any] = field(default_factory=dict)
    second: Mapping[str, Any] | None = None
    side: SideCall | None = None
    second_timestep: float | None = None
    lists: tuple[str, ...] = ()
    stepped: tuple[Any, Tensor] | None = None

    @property
    def output(self) -> float | None:
        """What the scheduler is given is the first call's output times this; None where it is something else, or of
        another size. Reads values: on a GPU it waits for them."""
        return None if self.stepped is None else _multiple(*self.stepped)


def part_of(pipe: Any) -> str:
    """Name of the pipeline's denoiser. Raises SettingsError for a pipeline without one, or with two."""
    found = [name for name in PARTS if isinstance(getattr(pipe, name, None), nn.Module)]
    if len(found) != 1:
        raise SettingsError(
            f"{type(pipe).__name__}: the denoisers are {', '.join(found) or 'none'}; one is wanted, of "
            f"{', '.join(PARTS)}"
        )
    return found[0]


def call_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """The arguments that the pipeline's call takes, by name."""
    return inspect.signature(type(pipe).__call__).parameters


class _Stepped(_Output):
    """What a scheduler's step returns, in all forms: some return the sample that they foresee behind it."""

    @property
    def prev_sample(self) -> Tensor:
        return self[0]


@torch.no_grad()
def first_step(pipe: Any, arguments: Mapping[str, Any], count: int, *, second: bool = False, steps: int = 2,
               seeds: Sequence[int] | None = None) -> FirstStep:  # fmt: skip
    """Calls the pipeline and stops it in its first step, or in its `second`; the denoiser itself is never run.

    arguments: of the pipeline's call, for `count` samples. steps: that it is asked for, more where its call takes but a
    share of them by default (its strength). seeds: of the samples' generators, 0, 1, … where none are given: some
    pipelines draw what they add to an image. Raises SettingsError where the pipeline refuses the arguments, or makes no
    step that can be recorded.
    """
    recorder = _Recorder(pipe, count, second=second)
    plain = {"num_inference_steps": math.ceil(steps / _share(pipe, arguments)), "output_type": "latent"}
    with suppress(_Stop):
        _call(pipe, recorder, plain, arguments, seeds or range(count))
    return recorder.result()


def _share(pipe: Any, arguments: Mapping[str, Any]) -> float:
    """The share of the steps that a call makes: all, unless it has a strength, of which images are noised."""
    parameter = call_parameters(pipe).get("strength")
    found = arguments.get("strength", None if parameter is None else parameter.default)
    return found if isinstance(found, int | float) and 0 < found < _FULL else 1.0


@torch.no_grad()
def last_step(pipe: Any, arguments: Mapping[str, Any], states: Tensor, prompts: Any, output_type: str,
              whole: bool = False) -> Any:  # fmt: skip
    """What the pipeline makes of states (N, …) that its sampler would have ended in.

    arguments: of its call, for N samples. prompts: what `encode_prompt` returns then (it is not called); None in a
    pipeline without it. output_type: as the pipeline takes it. whole: whether the sampler steps a part of the states,
    which the pipeline is then given behind its step.
    """
    recorder = _Recorder(pipe, len(states), states, prompts, whole=whole)
    plain: dict[str, Any] = {"num_inference_steps": 1, "output_type": output_type}
    if whole:
        plain["callback_on_step_end"] = lambda *_values: {"latents": states}
    return _call(pipe, recorder, plain, arguments, range(len(states)))[0]


def _call(pipe: Any, recorder: _Recorder, plain: dict[str, Any], arguments: Mapping[str, Any],
          seeds: Sequence[int]) -> Any:  # fmt: skip
    plain |= {"return_dict": False, "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
    with recorder.installed(), _silent(pipe):
        try:
            known = {name: value for name, value in plain.items() if name in call_parameters(pipe)}
            own = {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}
            return pipe(**known, **own)     # some write into the lists that they are given
        except NameError as error:      # a package that this pipeline alone wants, and that diffusers goes without
            raise SettingsError(f"{type(pipe).__name__}: {error}", hint=f"pip install {error.name}") from error
        except (ValueError, TypeError, RuntimeError, AttributeError, LookupError) as error:
            raise SettingsError(f"{type(pipe).__name__}: {' '.join(str(error).split())}") from error


class _Recorder:
    """Stands in the place of a pipeline's denoiser and of its scheduler's step.

    states: what the scheduler's step returns; None: the pipeline is stopped there, or with `second` at the next call of
    its denoiser. prompts: what stands in the place of `encode_prompt`'s result. whole: see `last_step`.
    """

    def __init__(self, pipe: Any, count: int, states: Tensor | None = None, prompts: Any = None, second: bool = False,
                 whole: bool = False):  # fmt: skip
        self.pipe, self.count, self.states, self.stand_in, self.goes_on = pipe, count, states, prompts, second
        self.whole = whole
        self.network = getattr(pipe, part_of(pipe))
        self.calls: list[dict[str, Any]] = []
        self.latents: Tensor | None = None
        self.state: Tensor | None = None
        self.timestep: float | None = None
        self.prompts: Any = None
        self.schedule: dict[str, Any] = {}
        self.second: dict[str, Any] | None = None
        self.second_timestep: float | None = None
        self.lists: tuple[str, ...] = ()
        self.stepped: tuple[Any, Tensor] | None = None
        self._made: Tensor | None = None
        self.side: SideCall | None = None
        self._beside: tuple[str, dict[str, Any], tuple[Tensor, Tensor]] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        pipe, kind = self.pipe, type(self.pipe)
        replaced: list[tuple[Any, str]] = []

        def replace(owner: Any, name: str, function: Any) -> None:
            owner.__dict__[name] = function
            replaced.append((owner, name))

        replace(self.network, "forward", self._forward)
        for name in SIDES:
            if isinstance(getattr(pipe, name, None), nn.Module):
                replace(getattr(pipe, name), "forward", self._called_beside(name))
        autoencoder = autoencoder_of(pipe)
        if autoencoder is not None:
            replace(autoencoder, "encode", _steady(autoencoder.encode))
        replace(pipe.scheduler, "step", self._step)
        replace(pipe.scheduler, "set_timesteps", self._scheduling(pipe.scheduler.set_timesteps))
        if hasattr(kind, "prepare_latents"):
            prepare = pipe.prepare_latents
            replace(pipe, "prepare_latents", lambda *a, **k: self._prepared(prepare(*a, **k)))
        encoding = next((name for name in ENCODINGS if hasattr(kind, name)), None)
        if encoding is not None:
            encode, given = getattr(pipe, encoding), self.stand_in
            made = encode if given is None else lambda *_a, **_k: given
            replace(pipe, encoding, lambda *a, **k: self._encoded(made(*a, **k)))
        first = "text_encoder" if self.states is None else "vae"
        pipe.__class__ = _on_device_of(kind, first)
        try:
            yield
        finally:
            pipe.__class__ = kind
            for owner, name in replaced:
                del owner.__dict__[name]

    def _prepared(self, result: Any) -> Any:
        self.latents = result[0] if isinstance(result, tuple) else result
        return result

    def _encoded(self, result: Any) -> Any:
        self.prompts = result
        return result

    def _scheduling(self, plain: Any) -> Any:
        @wraps(plain)  # pipelines look at its signature
        def set_timesteps(*values: Any, **named: Any) -> None:
            self.schedule = dict(inspect.signature(plain).bind(*values, **named).arguments)
            plain(*values, **named)

        return set_timesteps

    def _called_beside(self, part: str) -> Any:
        """Stands in the place of a second network: its two outputs are told apart by what they are."""

        def forward(*values: Any, **named: Any) -> Any:
            given, _ = _arguments(getattr(self.pipe, part), values, named)
            outputs = torch.zeros(1), torch.zeros(1)
            self._beside = part, given, outputs
            return [outputs[0]], outputs[1]

        return forward

    def _with_side(self, given: dict[str, Any]) -> dict[str, Any]:
        """The denoiser's arguments with those that the network beside it alone was given, without what that said."""
        if self._beside is None:
            return given
        (part, own, said), self._beside = self._beside, None
        outputs = {number: name.removesuffix("/0") for number, output in enumerate(said)
                   for name, value in given.items() if value is output}  # fmt: skip
        rest = {name: value for name, value in given.items() if not any(value is output for output in said)}
        links = {name: found for name, value in own.items() if (found := _same_as(name, value, rest)) is not None}
        side = SideCall(part, links, outputs)
        if not outputs or self.side is not None and self.side.to_dict() != side.to_dict():
            raise SettingsError(f"{type(self.pipe).__name__}: what its {part} says does not reach the denoiser as it "
                                "is, or not in all steps alike")  # fmt: skip
        self.side = side
        return rest | {f"{part}.{name}": value for name, value in own.items() if name not in links}

    def _forward(self, *values: Any, **named: Any) -> Any:
        given, arguments = _arguments(self.network, values, named)
        given = self._with_side(given)
        if self.state is not None and self.states is None:
            self.second = self.second or given
        else:
            self.calls.append(given)
            self.lists = self.lists or sequences(arguments, list)
        x = next((arguments[name] for name in STATES if name in arguments), None)
        if x is None:
            raise SettingsError(f"{type(self.network).__name__} takes {', '.join(arguments)}; none of them is a state")
        if isinstance(x, list | tuple):     # a tensor for every sample
            return _Output(([*self._said(torch.stack(list(x)))],))
        shape = list(x.shape if self.latents is None else (len(x), *self.latents.shape[1:]))
        config = self.network.config
        if config.get("out_channels") == 2 * shape[1]:  # learned variances, which the pipeline cuts off
            shape[1] *= 2
        return _Output((self._said(x.new_zeros(shape)),))

    def _said(self, zeros: Tensor) -> Tensor:
        """What stands for the denoiser's output: numbers that are known again at the scheduler; 0 in a decoding."""
        if self.states is not None:
            return zeros
        numbers = torch.arange(zeros.numel(), device=zeros.device) % _NUMBERS + 1
        found = zeros + (numbers / _NUMBERS).reshape(zeros.shape)
        self._made = found if self._made is None else self._made
        return found

    def _step(self, output: Any, timestep: Any, sample: Tensor, *_more: Any, **_named: Any) -> Any:
        if self.second is not None:
            self.second_timestep = float(timestep)
            raise _Stop
        self.state, self.timestep = sample, float(timestep)
        self.stepped = None if self._made is None else (output, self._made)
        if self.states is None and not self.goes_on:
            raise _Stop
        made = self.states is not None and not self.whole
        found = self.states.to(sample.device, sample.dtype) if made else sample / 2
        return _Stepped((found, found))

    def result(self) -> FirstStep:
        if self.state is None or not self.calls:
            raise SettingsError(
                f"{type(self.pipe).__name__}: {len(self.calls)} calls of the denoiser and no step of the scheduler "
                f"were seen; this pipeline does not sample as a diffusion model"
            )
        if len(self.state) != self.count:  # samples that the scheduler steps in both halves of a guided batch
            self.state = self.state[: self.count]
        return FirstStep(self.calls, self.state, self.timestep, self.prompts, self.schedule, self.second, self.side,
                         self.second_timestep, self.lists, self.stepped)  # fmt: skip


def _multiple(output: Any, made: Tensor) -> float | None:
    """The number times which `made` is the output, whatever sides of length 1 either has; None where there is none. Of
    learned variances, which stand in the second half of the channels, the output may be without."""
    if not isinstance(output, Tensor) or len(output) > len(made):
        return None
    found, wanted = output.float().flatten(), made[: len(output)]
    if wanted.numel() == 2 * found.numel() and wanted.ndim > 1 and wanted.shape[1] % 2 == 0:
        wanted = wanted.chunk(2, dim=1)[0]
    wanted = wanted.float().flatten()
    if wanted.shape != found.shape:
        return None
    number = float(found[0] / wanted[0])
    number = float(round(number)) if abs(number - round(number)) < _ROUNDING else number
    return number if torch.allclose(found, number * wanted, rtol=_ROUNDING, atol=_ROUNDING) else None


class _Steady:
    """An autoencoder's distribution that yields its mean to who gives no generator: what a pipeline encodes is then a
    function of the image (SD3 encodes a control image so, one draw for each branch of its guidance)."""

    def __init__(self, plain: Any):
        self._plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def sample(self, generator: Any = None) -> Tensor:
        return self._plain.mode() if generator is None else self._plain.sample(generator)


def _steady(encode: Any) -> Any:
    def encoded(*values: Any, **named: Any) -> Any:
        found = encode(*values, **named)
        if hasattr(found, "latent_dist"):
            found.latent_dist = _Steady(found.latent_dist)
        return found

    return encoded


def _arguments(network: nn.Module, values: tuple, named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a call of the network by path (`flattened`), without what is None and may be left out; and all by
    keyword."""
    signature = inspect.signature(type(network).forward)
    bound = signature.bind(network, *values, **named).arguments
    arguments = {name: value for name, value in bound.items() if name not in ("self", "return_dict")}
    arguments |= arguments.pop("kwargs", {})
    asked = {name for name, one in signature.parameters.items() if one.default is one.empty}
    given = {name: value for name, value in flattened(arguments).items() if value is not None or name in asked}
    return given, arguments


def _same_as(name: str, value: Any, given: Mapping[str, Any]) -> str | None:
    """The argument that is the same tensor, if any, one of the same name before others."""
    if not isinstance(value, Tensor):
        return None
    for other in sorted(given, key=lambda other: other != name):
        found = given[other]
        if isinstance(found, Tensor) and found.shape == value.shape and found.dtype == value.dtype and torch.equal(
                found, value):  # fmt: skip
            return other
    return None


@contextmanager
def _silent(pipe: Any) -> Iterator[None]:
    before = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe._progress_bar_config = before or {}


def _on_device_of(kind: type, first: str) -> type:
    """The pipeline's class with the device of the part `first`, else of any that is really there: the denoiser may be
    on meta, and encoders and autoencoder on different devices."""

    def device(pipe: Any) -> torch.device:
        parts = sorted(pipe.components.items(), key=lambda item: item[0] != first)
        modules = (part for _, part in parts if isinstance(part, nn.Module))
        real = (parameter.device for module in modules for parameter in module.parameters())
        return next((found for found in real if found.type != "meta"), torch.device("cpu"))

    return type(kind.__name__, (kind,), {
        "device": property(device), "_execution_device": property(device), "__module__": kind.__module__,
    })  # fmt: skip


def structure(first: Any, second: Any, counts: tuple[int, int]) -> Any:
    """What `encode_prompt` returned for two numbers of prompts, as JSON: tensors by shape and dtype, without the batch
    where it grew with it."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        grew = first.ndim > 0 and (len(first), len(second)) == counts
        shape = list(first.shape[1:] if grew else first.shape)
        return {"shape": shape, "dtype": str(first.dtype).removeprefix("torch."), "per_sample": grew}
    if not isinstance(first, list | tuple) or not isinstance(second, list | tuple):
        return None
    if (len(first), len(second)) == counts and isinstance(first[0], Tensor):
        return {"each": {"shape": list(first[0].shape), "dtype": str(first[0].dtype).removeprefix("torch."),
                         "per_sample": False}}  # fmt: skip
    return [structure(one, other, counts) for one, other in zip(first, second, strict=True)]


def zeros(described: Any, count: int) -> Any:
    """Zeros of a `structure` for `count` prompts."""
    if isinstance(described, Mapping) and "each" in described:
        return [zeros(described["each"], count) for _ in range(count)]
    if isinstance(described, Mapping):
        shape = ([count] if described["per_sample"] else []) + list(described["shape"])
        return torch.zeros(shape, dtype=getattr(torch, described["dtype"]))
    return None if described is None else tuple(zeros(one, count) for one in described)


def per_sample(first: Mapping[str, Any], second: Mapping[str, Any], counts: tuple[int, int]) -> list[str]:
    """Paths of the arguments whose first side grew from counts[0] to counts[1] with the batch."""
    return [
        name
        for name, value in first.items()
        if isinstance(value, Tensor) and value.ndim and isinstance(second.get(name), Tensor)
        and (len(value), len(second[name])) == counts
    ]  # fmt: skip


def keyword(names: Sequence[str], found: Mapping[str, Any], what: str) -> str:
    """The first of `names` that the denoiser was given. Raises SettingsError where it was given none."""
    for name in names:
        if name in found:
            return name
    raise SettingsError(f"the denoiser's {what} is none of {', '.join(names)}; it was given {', '.join(found)}")

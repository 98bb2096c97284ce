"""How a network is called: the keywords by which it takes state, time, condition and what is always the same."""

from __future__ import annotations

import base64
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.conditions import Condition
from fewstep.diffusion.network_inputs import Given, handed
from fewstep.diffusion.side_call import SideCall
from fewstep.diffusion.text_padding import trimmed
from fewstep.util.device import number_on, sent
from fewstep.util.errors import SettingsError

JOINED = "joined"
"""Name, in a condition, of what stands behind the state and has no keyword of its own."""
STILL = "still"
"""Name, in a condition, of what stands in the place of a state's first tokens."""
LENGTH = ".length"
"""Behind the keyword of a listed tensor: name, in a condition, of how many of its rows are the sample's own."""


@dataclass(frozen=True, eq=False)
class NetworkCall:
    """The call of a network by keywords.

    Attributes:
        state: keyword of the state (N, …).
        time: keyword of the time (N,).
        rows: keyword of the labels (N,) int64, for a network that embeds classes itself.
        fields: keywords of the condition's tensors (N, …); `a/b` is entry b of a dictionary a.
        constants: what every call has alike, by keyword, tensors among them.
        joined: of `fields`, the one that stands behind the state (masks, images to be continued), along the dimension
            `joined_along`.
        guidance: keyword of a guidance scale that the network embeds; `guidance_factor` times the scale is given, by
            default `guidance_scale`.
        time_shape: sides after N of the time where it is no vector (a time for every token); with `still` the tokens.
        side: of a second network whose outputs this one is given.
        still: of `fields`, the tokens (N, n, C) that stand clean, at time 0, in the place of the first n of the state's
            (a first frame): x0 is known there.
        output: what the sampler is given is the network's output times this (−1 where a network's time runs from noise
            to data, and with it what it predicts).
        listed: keywords, the state's among them or not, that take a list with one tensor per sample; of those that
            differ in their number of rows, the field `keyword + LENGTH` says how many are a sample's own.
        each: of `constants`, lists of one item, which the network takes once for every sample.
        ragged: of `fields`, those that are as long as their text (`trimmed`).
        repeated: how often every row of a tensor is given, one behind the other, by keyword (a text for every frame).
        added: the dimension of length 1 that the network's state has and the sampler's has not; None without.
        lists: paths of sequences that are lists (of which a network may take what it has used), not tuples.
    """

    state: str
    time: str
    rows: str | None = None
    fields: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    joined: str | None = None
    guidance: str | None = None
    guidance_factor: float = 1.0
    guidance_scale: float | None = None
    time_shape: tuple[int, ...] = ()
    joined_along: int = 1
    side: SideCall | None = None
    still: str | None = None
    output: float = 1.0
    listed: tuple[str, ...] = ()
    added: int | None = None
    lists: tuple[str, ...] = ()
    repeated: Mapping[str, int] = field(default_factory=dict)
    each: tuple[str, ...] = ()
    ragged: tuple[str, ...] = ()

    def __call__(
        self, network: nn.Module, x: Tensor, time: Tensor, condition: Condition | Given | Tensor | None
    ) -> Tensor:
        """The raw output for the state x (N, …), already of the network's precision, and the network's own time (N,).

        condition: what the denoiser resolved: rows alone, rows with tensors, or these with further inputs.
        """
        given: dict[str, Any] = {name: _placed(value, x) for name, value in self.constants.items()}
        given |= {name: given[name] * len(x) for name in self.each}
        sides = self.time_shape if self.still is None else x.shape[1:2]
        given[self.time] = time.reshape(-1, *(1 for _ in sides)).expand(-1, *sides)
        further = condition if isinstance(condition, Given) else None
        known = further.labels if further is not None else condition
        tensors = trimmed(known.tensors, self.ragged) if isinstance(known, Condition) else {}
        state = x
        for name in self.fields:
            if name not in tensors:
                raise SettingsError(f"this network takes {name!r} of every condition; give the denoiser its table")
            value = sent(tensors[name], x.device, x.dtype if tensors[name].is_floating_point() else None)
            if name == self.joined:
                state = torch.cat([x, value], dim=self.joined_along)
            elif name == self.still:
                tokens = value.shape[1]
                state, times = torch.cat([value, x[:, tokens:]], dim=1), given[self.time]
                given[self.time] = torch.cat([torch.zeros_like(times[:, :tokens]), times[:, tokens:]], dim=1)
            elif name in self.listed:
                own = tensors.get(name + LENGTH)
                given[name] = [*value] if own is None else [row[:n] for row, n in zip(value, own.tolist(), strict=True)]
            elif name.removesuffix(LENGTH) not in self.listed:
                given[name] = value.repeat_interleave(self.repeated[name], 0) if name in self.repeated else value
        if self.rows is not None:
            given[self.rows] = condition.rows if isinstance(condition, Condition) else condition
        if self.guidance is not None:
            scale = self.guidance_scale if further is None or further.scale is None else further.scale
            scale = number_on(x.device, scale).to(x.dtype).expand(len(x))
            given[self.guidance] = scale * self.guidance_factor
        given[self.state] = self._handed_on(state)
        if self.side is not None:
            given = self.side(given, x, self.time, nested)
        arguments = nested(given, self.lists)
        if further is None or self.rows is not None:
            return self._handed_back(network(**arguments, return_dict=False)[0])
        with handed(network, further):
            return self._handed_back(network(**arguments, return_dict=False)[0])

    def _handed_on(self, state: Tensor) -> Tensor | list[Tensor]:
        """The state in the network's own form."""
        state = state if self.added is None else state.unsqueeze(self.added)
        return [*state] if self.state in self.listed else state

    def _handed_back(self, output: Any) -> Tensor:
        """The network's output in the sampler's form and sign."""
        output = torch.stack(list(output)) if self.state in self.listed else output
        output = output if self.added is None else output.squeeze(self.added)
        return output if self.output == 1.0 else output * self.output

    def __deepcopy__(self, memo: dict) -> NetworkCall:
        """Itself: nobody changes it, and copies of a network are called alike."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "state": self.state, "time": self.time, "rows": self.rows, "fields": list(self.fields),
            "constants": {name: to_json(value) for name, value in self.constants.items()}, "joined": self.joined,
            "guidance": self.guidance, "guidance_factor": self.guidance_factor,
            "guidance_scale": self.guidance_scale, "time_shape": list(self.time_shape),
            "joined_along": self.joined_along, **({"side": self.side.to_dict()} if self.side is not None else {}),
            **({"still": self.still} if self.still is not None else {}),
            **({"output": self.output} if self.output != 1.0 else {}),
            **({"listed": list(self.listed)} if self.listed else {}),
            **({"added": self.added} if self.added is not None else {}),
            **({"lists": list(self.lists)} if self.lists else {}),
            **({"repeated": dict(self.repeated)} if self.repeated else {}),
            **({"each": list(self.each)} if self.each else {}),
            **({"ragged": list(self.ragged)} if self.ragged else {}),
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> NetworkCall:
        """The call that `to_dict` described. Raises SettingsError for another description."""
        try:
            rest = dict(data)
            constants = {name: from_json(value) for name, value in rest.pop("constants").items()}
            fields, time_shape = tuple(rest.pop("fields")), tuple(rest.pop("time_shape"))
            side = SideCall.from_dict(rest.pop("side", None))
            named = {name: tuple(rest.pop(name, ())) for name in ("listed", "lists", "each", "ragged")}
            return NetworkCall(**rest, **named, fields=fields, time_shape=time_shape, constants=constants, side=side)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(f"the description of the network's call is not understood: {error}") from None


CLASSES = NetworkCall("sample", "timestep", rows="class_labels")
"""A diffusers UNet2DModel."""


def flattened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by path: entry b of a dictionary a as `a/b`, item 0 of a sequence a that holds tensors as `a/0`."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": inner for key, inner in flattened(value).items()}
        elif isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            found |= flattened({name: {str(number): item for number, item in enumerate(value)}})
        else:
            found[name] = value
    return found


def sequences(arguments: Mapping[str, Any], kind: type) -> tuple[str, ...]:
    """Paths of the sequences of this kind that `flattened` takes apart."""
    found: list[str] = []
    for name, value in arguments.items():
        inner = dict(value) if isinstance(value, Mapping) else {}
        if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            found += [name] if isinstance(value, kind) else []
            inner = {str(number): item for number, item in enumerate(value)}
        found += [f"{name}/{path}" for path in sequences(inner, kind)]
    return tuple(found)


def nested(arguments: Mapping[str, Any], lists: Container[str] = (), above: str = "") -> dict[str, Any]:
    """The inverse of `flattened`; what has the keys 0, 1, … becomes a tuple, or of the paths `lists` a list.

    above: the path that all these paths follow.
    """
    found: dict[str, Any] = {}
    for path, value in arguments.items():
        name, _, rest = path.partition("/")
        if rest:
            found.setdefault(name, {})[rest] = value
        else:
            found[name] = value
    return {name: _rebuilt(value, lists, above + name) if any(p.startswith(f"{name}/") for p in arguments) else value
            for name, value in found.items()}  # fmt: skip


def _rebuilt(entries: dict[str, Any], lists: Container[str], path: str) -> Any:
    inner = nested(entries, lists, f"{path}/")
    if inner and list(inner) == [str(k) for k in range(len(inner))]:
        return list(inner.values()) if path in lists else tuple(inner.values())
    return inner


def _placed(value: Any, x: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(x.device)


def to_json(value: Any) -> Any:
    """A constant of a call, JSON-ready: tensors by their bytes, lists and what stands in tuples by their kind, which
    some networks ask for."""
    if isinstance(value, list) or isinstance(value, tuple) and any(isinstance(one, list | tuple) for one in value):
        return {"list" if isinstance(value, list) else "tuple": [to_json(one) for one in value]}
    if not isinstance(value, Tensor):
        return {"value": value}
    data = base64.b64encode(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).decode()
    return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "bytes": data}


def from_json(data: Mapping[str, Any]) -> Any:
    """The constant that `to_json` described."""
    if "value" in data:
        value = data["value"]
        return tuple(value) if isinstance(value, list) else value
    for name, kind in (("list", list), ("tuple", tuple)):
        if name in data:
            return kind(map(from_json, data[name]))
    plain = torch.frombuffer(bytearray(base64.b64decode(data["bytes"])), dtype=torch.uint8)
    return plain.view(getattr(torch, data["dtype"])).reshape(data["shape"])

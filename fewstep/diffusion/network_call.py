"""How a network is called: the keywords by which it takes state, time, condition and what is always the same."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.diffusion.conditions import Condition
from fewstep.diffusion.network_inputs import Given, handed
from fewstep.diffusion.side_call import SideCall
from fewstep.util.device import number_on, sent
from fewstep.util.errors import SettingsError

JOINED = "joined"
"""Name, in a condition, of what stands behind the state and has no keyword of its own."""
STILL = "still"
"""Name, in a condition, of what stands in the place of a state's first tokens."""


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

    def __call__(
        self, network: nn.Module, x: Tensor, time: Tensor, condition: Condition | Given | Tensor | None
    ) -> Tensor:
        """The raw output for the state x (N, …), already of the network's precision, and the network's own time (N,).

        condition: what the denoiser resolved: rows alone, rows with tensors, or these with further inputs.
        """
        given: dict[str, Any] = {name: _placed(value, x) for name, value in self.constants.items()}
        sides = self.time_shape if self.still is None else x.shape[1:2]
        given[self.time] = time.reshape(-1, *(1 for _ in sides)).expand(-1, *sides)
        further = condition if isinstance(condition, Given) else None
        known = further.labels if further is not None else condition
        tensors = known.tensors if isinstance(known, Condition) else {}
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
            else:
                given[name] = value
        if self.rows is not None:
            given[self.rows] = condition.rows if isinstance(condition, Condition) else condition
        if self.guidance is not None:
            scale = self.guidance_scale if further is None or further.scale is None else further.scale
            scale = number_on(x.device, scale).to(x.dtype).expand(len(x))
            given[self.guidance] = scale * self.guidance_factor
        given[self.state] = state
        if self.side is not None:
            given = self.side(given, x, self.time, nested)
        if further is None or self.rows is not None:
            return network(**nested(given), return_dict=False)[0]
        with handed(network, further):
            return network(**nested(given), return_dict=False)[0]

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
        }  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> NetworkCall:
        """The call that `to_dict` described. Raises SettingsError for another description."""
        try:
            rest = dict(data)
            constants = {name: from_json(value) for name, value in rest.pop("constants").items()}
            fields, time_shape = tuple(rest.pop("fields")), tuple(rest.pop("time_shape"))
            side = SideCall.from_dict(rest.pop("side", None))
            return NetworkCall(**rest, fields=fields, time_shape=time_shape, constants=constants, side=side)
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


def nested(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flattened`; what has the keys 0, 1, … becomes a tuple."""
    found: dict[str, Any] = {}
    for path, value in arguments.items():
        name, _, rest = path.partition("/")
        if rest:
            found.setdefault(name, {})[rest] = value
        else:
            found[name] = value
    return {name: _rebuilt(value) if any(p.startswith(f"{name}/") for p in arguments) else value
            for name, value in found.items()}  # fmt: skip


def _rebuilt(entries: dict[str, Any]) -> Any:
    inner = nested(entries)
    if inner and list(inner) == [str(k) for k in range(len(inner))]:
        return tuple(inner.values())
    return inner


def _placed(value: Any, x: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(x.device)


def to_json(value: Any) -> Any:
    """A constant of a call, JSON-ready: tensors by their bytes."""
    if not isinstance(value, Tensor):
        return {"value": value}
    data = base64.b64encode(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).decode()
    return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "bytes": data}


def from_json(data: Mapping[str, Any]) -> Any:
    """The constant that `to_json` described."""
    if "value" in data:
        value = data["value"]
        return tuple(value) if isinstance(value, list) else value
    plain = torch.frombuffer(bytearray(base64.b64decode(data["bytes"])), dtype=torch.uint8)
    return plain.view(getattr(torch, data["dtype"])).reshape(data["shape"])

"""A second network beside the denoiser, as a ControlNet, that is given the same state and time and something of its own
(edges, a pose), and whose outputs the denoiser is given. It rests: what is distilled is the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from fewstep.util.errors import SettingsError


@dataclass(frozen=True, eq=False)
class SideCall:
    """How the second network is called.

    Attributes:
        part: its name in the pipeline. What it alone is given stands among the denoiser's arguments as `part.keyword`.
        links: its keywords that are given the denoiser's own argument, by that one's keyword.
        outputs: keywords of the denoiser by the number of the output that they are given.
        network: itself; None in a description.
    """

    part: str
    links: Mapping[str, str]
    outputs: Mapping[int, str]
    network: nn.Module | None = None

    def __call__(self, given: Mapping[str, Any], x: Tensor, time: str,
                 build: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:  # fmt: skip
        """The denoiser's arguments, from all arguments by path.

        x: the state. time: the denoiser's keyword of the time, which is not rounded to the network's own type: timestep
        667 is none of bfloat16. build: makes arguments of paths.
        """
        if self.network is None:
            raise SettingsError(f"this network is called with what the part {self.part!r} of its pipeline says, which "
                                "is not at hand")  # fmt: skip
        start = f"{self.part}."
        own = {name.removeprefix(start): value for name, value in given.items() if name.startswith(start)}
        rest = {name: value for name, value in given.items() if not name.startswith(start)}
        own |= {name: rest[linked] for name, linked in self.links.items()}
        exact = {name for name, linked in self.links.items() if linked == time}
        weight = next(self.network.parameters())
        if weight.device != x.device:
            self.network.to(x.device)
        own = {name: value if name in exact else _of_type(value, weight.dtype) for name, value in own.items()}
        found = self.network(**build(own), return_dict=False)
        return rest | {name: _of_type(found[number], x.dtype) for number, name in self.outputs.items()}

    def attached(self, network: nn.Module) -> SideCall:
        """The same call of this network."""
        return replace(self, network=network.requires_grad_(False).eval())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {"part": self.part, "links": dict(self.links),
                "outputs": {str(number): name for number, name in self.outputs.items()}}  # fmt: skip

    @staticmethod
    def from_dict(data: Mapping[str, Any] | None) -> SideCall | None:
        """What `to_dict` described."""
        if data is None:
            return None
        outputs = {int(number): name for number, name in data["outputs"].items()}
        return SideCall(data["part"], dict(data["links"]), outputs)


def _of_type(value: Any, dtype: Any) -> Any:
    """Numbers of this type in the place of all floating-point ones."""
    if isinstance(value, list | tuple):
        return [_of_type(one, dtype) for one in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

"""The networks of models.yaml as denoisers without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch

from fewstep.diffusion.adapters import Timestep
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_call import NetworkCall
from fewstep.diffusion.processes import Flow, VariancePreserving
from fewstep.families.family import Field
from fewstep.training.rehearsal.stand_ins import Conditions
from fewstep.util.config import Strict, parse
from fewstep.util.plain_data import from_yaml

MODELS = Path(__file__).with_name("models.yaml")


class Model(Strict):
    """A network and how it is called.

    config: of the network's class in diffusers, over its defaults. shallow: further configuration of one block, and of
    two, in each place of `depth` of them. state: shape of one. call: keywords of state, time, classes and an embedded
    guidance scale. fields: shapes of one condition's tensors by keyword; constants: of what all have alike. classes:
    that the network embeds itself. guided: whether there is a null condition. flow: whether it is a flow, else a chain
    of noise levels. batch: for which its memory is told.
    """

    name: str
    source: str
    network: str
    config: dict[str, Any]
    shallow: list[dict[str, Any]]
    depth: int
    state: tuple[int, ...]
    call: dict[str, Any]
    fields: dict[str, list[int]] = {}
    constants: dict[str, list[int]] = {}
    classes: int = 0
    guided: bool
    flow: bool
    batch: int

    def denoiser(self, blocks: int) -> Denoiser:
        """Its denoiser with one block, or two, in each place of many; on meta."""
        with torch.device("meta"):
            network = getattr(diffusers, self.network).from_config(self.config | self.shallow[blocks - 1])
        constants = {name: torch.zeros(shape) for name, shape in self.constants.items()}
        call = NetworkCall(**self.call, fields=tuple(self.fields), constants=constants)
        process = Flow() if self.flow else VariancePreserving.cosine()
        kind = "flow_prediction" if self.flow else "epsilon"
        denoiser = Denoiser(network, process, kind, self.state, self.classes, self.classes or None,
                            Timestep(999.0, call))  # fmt: skip
        if self.classes:
            return denoiser.requires_grad_(False).eval()
        fields = {name: Field(tuple(shape), "float32") for name, shape in self.fields.items()}
        return denoiser.take(Conditions(fields, self.guided)).requires_grad_(False).eval()


def models() -> dict[str, Model]:
    """All of models.yaml, by short name."""
    return {name: parse(Model, data, f"{MODELS.name}, {name}") for name, data in from_yaml(MODELS.read_bytes()).items()}

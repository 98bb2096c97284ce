"""The types of what `fewstep inspect` tells of a saved pipeline. Torch-free."""

from __future__ import annotations

from typing import Any, Literal

from fewstep.training.memory import RoleMemory
from fewstep.util.config import Strict


class PartSummary(Strict):
    """A part with weights. parameters: of it; bytes: of its weight files."""

    name: str
    kind: str
    parameters: int
    bytes: int


class TensorSummary(Strict):
    """A tensor by its shape, without the batch, and dtype as recorded. float32, bfloat16: bytes of one in that type,
    where whole numbers and truth values keep their own."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    float32: int
    bfloat16: int


class RefusedRecipe(Strict):
    """A recipe that cannot be run with the teacher."""

    name: str
    reason: str


class RecordedFacts(Strict):
    """What a call of the pipeline, and its network without weights, tell.

    arguments: of the call. images: arguments that are images, beside the text. state: what the denoiser steps; sample:
    shape of what is decoded of it. fields: of a condition; empty for classes and for none. null: whether there is a
    null condition. guidance: how both branches are evaluated, None for a pipeline without guidance. embedded: the
    guidance scale that the network is given where nobody says one, None where it takes none. shift: of a flow's noise
    levels. recipes: that can be run with it; refused: the others. adapters: parameters of LoRA of `rank`. memory: of a
    run's networks by role.
    """

    arguments: dict[str, Any]
    images: tuple[str, ...] = ()
    state: TensorSummary
    sample: tuple[int, ...]
    fields: tuple[TensorSummary, ...]
    null: bool
    guidance: Literal["joint", "sequential"] | None
    embedded: float | None
    shift: float | None
    recipes: tuple[str, ...]
    refused: tuple[RefusedRecipe, ...]
    rank: int
    adapters: int
    memory: tuple[RoleMemory, ...]


class TeacherSummary(Strict):
    """A saved pipeline. part, network: its denoiser; parameters: of that. textual: whether its conditions are texts;
    classes: labels without the null one. recorded: None where only headers were read."""

    folder: str
    pipeline: str
    part: str
    network: str
    parameters: int
    scheduler: str
    process: str
    prediction: str
    textual: bool
    classes: int
    parts: tuple[PartSummary, ...]
    recorded: RecordedFacts | None = None

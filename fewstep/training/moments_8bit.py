"""AdamW whose moments take a byte a number, by torchao: blocks of 256 numbers share a scale (Dettmers et al.,
2110.02861). What has fewer than 4,096 numbers, or no whole blocks, keeps float32."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import Optimizer

from fewstep.training.memory import BLOCK_8BIT
from fewstep.util.errors import SettingsError

CODES, SCALE = ".codes", ".scale"


def adamw_8bit(parameters: Iterable[nn.Parameter], lr: float, **settings: Any) -> Optimizer:
    """The optimiser; its `lr` is a tensor. Raises SettingsError without torchao."""
    require_torchao()
    with _quiet():
        from torchao.optim import AdamW8bit
    return AdamW8bit(list(parameters), lr=torch.tensor(lr), block_size=BLOCK_8BIT, **settings)


def torchao_is_here() -> bool:
    """Whether moments can be in 8 bits on this machine."""
    return find_spec("torchao") is not None


def require_torchao() -> None:
    """Raises SettingsError where moments cannot be in 8 bits."""
    if not torchao_is_here():
        raise SettingsError("8bit needs the package torchao, which is not here",
                            hint="pip install 'fewstep[8bit]', or leave distill.moments at float32")  # fmt: skip


@contextmanager
def eagerly(parameter: Tensor) -> Iterator[None]:
    """On a CPU, and where tensors have no values, the body runs as it is written: torchao compiles an update for every
    shape, which takes seconds each there; on a GPU it is what makes the update one kernel."""
    if parameter.device.type == "cuda" and not isinstance(parameter.data, FakeTensor):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def parts_of(value: Tensor) -> dict[str, Tensor]:
    """The plain tensors of a moment, by what is added to its name; a moment in 8 bits is of two."""
    return {CODES: value.codes, SCALE: value.scale} if hasattr(value, "codes") else {"": value}


def moment_of(parts: dict[str, Tensor], parameter: Tensor, signed: bool) -> Tensor:
    """The moment of a parameter that `parts_of` gave, on its device. Raises ValueError for parts that are none."""
    if parts.keys() == {""} and parts[""].shape == parameter.shape:
        return parts[""].to(parameter.device)
    if parts.keys() != {CODES, SCALE} or parts[CODES].shape != parameter.shape:
        raise ValueError("no moment of this parameter")
    if len(parts[SCALE]) * BLOCK_8BIT != parameter.numel() or parts[CODES].dtype != torch.uint8:
        raise ValueError("codes and scales do not fit each other")
    with _quiet():
        from torchao.optim.subclass_8bit import OptimState8bit
    made = OptimState8bit.zeros(parameter.shape, signed, BLOCK_8BIT, parameter.device, dtype=parameter.dtype)
    made.codes.copy_(parts[CODES])
    made.scale.copy_(parts[SCALE])
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """torchao tells at its import of kernels for other machines that it does without."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

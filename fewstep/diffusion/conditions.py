"""What a condition may be. It is checked where it comes in, so that a mistake is named there, not by a bare index error
or a NaN from deep within a network."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.util.errors import SettingsError


def require_condition(
    condition: Tensor | None, count: int, classes: int, null: int | None, groups: int = 0, *, wait: bool = True
) -> None:
    """Raises SettingsError unless `condition` is an integer tensor (count,) of 0 … classes − 1 and, if any, `null` and
    the labels of `groups` groups of classes, which follow.

    None stands for the null class; a network without classes (0) takes nothing else. The values of a tensor on a GPU
    are looked at only with `wait`, since that waits for the device.
    """
    if classes == 0 and condition is not None:
        raise SettingsError("this network is unconditional; leave the condition out")
    if condition is None:
        if classes and null is None:
            raise SettingsError(f"this network needs a condition: a class of 0 … {classes - 1} per sample")
        return
    allowed = f"0 … {classes - 1}" + ("" if null is None else f" or {null} for no class")
    if groups:
        allowed += f" or {null + 1} … {null + groups} for groups of classes"
    wanted = f"the condition must be an integer tensor ({count},) of class labels, {allowed}; got"
    if not isinstance(condition, Tensor):
        raise SettingsError(f"{wanted} a {type(condition).__name__}")
    if condition.dtype == torch.bool or condition.is_floating_point() or condition.is_complex():
        raise SettingsError(f"{wanted} {condition.dtype}")
    if condition.shape != (count,):
        raise SettingsError(f"{wanted} shape {tuple(condition.shape)}")
    if wait or condition.device.type == "cpu":
        odd = _unknown(condition, classes, null, groups)
        if len(odd):
            raise SettingsError(f"{wanted} label {int(odd[0])}")


def _unknown(condition: Tensor, classes: int, null: int | None, groups: int) -> Tensor:
    """The labels (n,) that name nothing."""
    odd = (condition < 0) | (condition >= classes)
    return condition[odd if null is None else odd & ((condition < null) | (condition > null + groups))]

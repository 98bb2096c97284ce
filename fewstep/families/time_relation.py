"""How the time that a pipeline gives its denoiser follows from its scheduler's timestep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fewstep.families.recording import FirstStep, first_step
from fewstep.util.errors import SettingsError

_SAME = 1e-5        # of a time that went through float32
_FURTHER_STEPS = 5  # of the call that gives a third point


def time_relation(pipe: Any, arguments: Mapping[str, Any], step: FirstStep, time: str,
                  count: int) -> tuple[float, float]:  # fmt: skip
    """(factor, offset): what the denoiser is given as `time` is the scheduler's timestep times factor plus offset.

    arguments: of the pipeline's call that `step` was recorded from, with its second step, for `count` samples.
    Raises SettingsError where it follows in another way, or does not follow: a network at one time throughout would
    seem to learn.
    """
    first = _last(step.calls[0][time])
    if not step.timestep:
        return 1.0, 0.0
    factor = first / step.timestep
    second = None if step.second is None else _point(step, time)
    if second is None or _near(second[0] * factor, second[1], first):
        return factor, 0.0
    slope = _rounded((first - second[1]) / (step.timestep - second[0]))
    offset = _rounded(first - slope * step.timestep)
    further = first_step(pipe, arguments, count, second=True, steps=_FURTHER_STEPS)
    third = _point(further, time)
    if not slope or third is None or not all(_near(slope * at + offset, said, 1.0) for at, said in (second, third)):
        raise SettingsError(f"{type(pipe).__name__}: its denoiser is given the {time} {first:g} and {second[1]:g} at "
                            f"its scheduler's timesteps {step.timestep:g} and {second[0]:g}; only what is a multiple "
                            "of them plus a number is understood")  # fmt: skip
    return slope, offset


def _point(step: FirstStep, time: str) -> tuple[float, float] | None:
    """The scheduler's timestep and the denoiser's time in the second step; None where that is at the first's again."""
    if step.second is None or step.second_timestep in (None, step.timestep):
        return None
    return step.second_timestep, _last(step.second[time])


def _last(value: Any) -> float:
    """The time of a sample's last part: its first tokens may stand clean, at time 0."""
    return value.flatten()[-1].item() if isinstance(value, Tensor) else float(value)


def _near(one: float, other: float, size: float) -> bool:
    return abs(one - other) <= _SAME * max(abs(size), abs(other))


def _rounded(number: float) -> float:
    """Without what float32 adds to a number of few digits."""
    short = float(f"{number:.5g}")
    return short if abs(short - number) <= _SAME * max(abs(number), 1.0) else number

"""The time that a denoiser is given follows from the scheduler's by a factor and a number; else it is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fewstep.families import time_relation as module
from fewstep.families.recording import FirstStep, _multiple
from fewstep.families.time_relation import time_relation
from fewstep.util.errors import SettingsError


def step(said, first: float = 1000.0, second: float | None = 500.0) -> FirstStep:
    """A step of a pipeline whose denoiser is given said(t) at t."""
    given = {"timestep": torch.tensor([said(first)] * 2)}
    other = None if second is None else {"timestep": torch.tensor([said(second)] * 2)}
    return FirstStep([given], torch.zeros(2, 1), first, second=other, second_timestep=second)


@pytest.mark.parametrize(("said", "wanted"), [
    (lambda t: t, (1.0, 0.0)), (lambda t: t / 1000, (1e-3, 0.0)), (lambda t: 1 - t / 1000, (-1e-3, 1.0)),
    (lambda t: 1000 - t, (-1.0, 1000.0)),
])
def test_a_factor_and_a_number_are_found(said, wanted, monkeypatch):
    monkeypatch.setattr(module, "first_step", lambda *_a, **_k: step(said, second=800.0))
    assert time_relation(SimpleNamespace(), {}, step(said), "timestep", 2) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("said", [lambda t: (t / 1000) ** 2, lambda t: 0.25 * 1000 / t, lambda t: 3.0])
def test_another_relation_is_refused(said, monkeypatch):
    monkeypatch.setattr(module, "first_step", lambda *_a, **_k: step(said, second=800.0))
    with pytest.raises(SettingsError, match="only what is a multiple of them plus a number is understood"):
        time_relation(SimpleNamespace(), {}, step(said), "timestep", 2)


def test_one_step_alone_tells_the_factor():
    assert time_relation(SimpleNamespace(), {}, step(lambda t: 2 * t, second=None), "timestep", 2) == (2.0, 0.0)


def test_what_a_scheduler_is_given_is_a_multiple_of_the_output_or_nothing_known():
    made = torch.arange(48.0).reshape(2, 6, 4) % 13 + 1
    assert _multiple(made, made) == 1.0 and _multiple(-made[:, :, None], made) == -1.0
    assert _multiple(0.5 * made, made) == 0.5
    assert _multiple(made[:, :3], made) == 1.0      # without learned variances
    for other in (made.flip(1), made + 1, made**2, made[:, :2], made.transpose(1, 2), None):
        assert _multiple(other, made) is None

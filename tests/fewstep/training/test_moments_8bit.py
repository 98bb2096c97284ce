"""AdamW's moments in 8 bits: near those of float32, a quarter of their memory, and resumed to the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.recipes.training_settings import OptimiserSettings
from fewstep.teachers import new_unet
from fewstep.training import moments_8bit
from fewstep.training.memory import WIDTH_8BIT
from fewstep.training.moments_8bit import parts_of, torchao_is_here
from fewstep.training.optimiser import RoleOptimiser
from fewstep.training.rehearsal.rounds import Machine, rehearse
from fewstep.util.errors import SettingsError
from tests.closure import ROOT
from tests.fewstep.training.small import BATCH, checkpoint_bytes, finish, run, tiny
from tests.fewstep.training.test_resume import Stopped, same, stop_after


@pytest.fixture
def torchao(monkeypatch) -> None:
    """The package in its folder (`make torchao`); what is imported of it stays."""
    folder = ROOT / ".venv/apart/torchao"
    if not folder.is_dir() and not torchao_is_here():
        pytest.skip("torchao is not here: `make torchao` installs it")
    monkeypatch.syspath_prepend(folder)


def teacher() -> Denoiser:
    """Whose larger weights are whole blocks."""
    network = new_unet(8, 1, 3, (32,), 1, generator=torch.Generator().manual_seed(0))
    return Denoiser(network, VariancePreserving.cosine(), "v_prediction", (1, 8, 8), 3, 3)


def role(moments: str) -> RoleOptimiser:
    """One matrix of whole blocks, whose moments are in 8 bits, and one that is too small for them."""
    source = torch.Generator().manual_seed(0)
    module = nn.ParameterDict({name: nn.Parameter(torch.randn(shape, generator=source))
                               for name, shape in (("large", (128, 64)), ("small", (64,)))})  # fmt: skip
    settings = OptimiserSettings(lr=1e-2, schedule="constant", warmup=0, clip=0, moments=moments)
    return RoleOptimiser({"student": module}, settings)


def steps(own: RoleOptimiser, numbers: range) -> None:
    """Updates with gradients that number and step decide, of about the parameters' size."""
    for number in numbers:
        source = torch.Generator().manual_seed(number)
        own.give([one.detach() + 0.1 * torch.randn(one.shape, generator=source) for one in own.stepped])
        own.step(0.5, own.norm())


def weights(own: RoleOptimiser) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in own.modules["student"].items()}


@pytest.mark.usefixtures("torchao")
def test_updates_are_near_those_of_float32_and_the_moments_take_a_quarter():
    plain, compact = role("float32"), role("8bit")
    before = weights(plain)
    for own in (plain, compact):
        steps(own, range(40))
    assert torch.allclose(weights(plain)["small"], weights(compact)["small"], atol=1e-6)
    moved = (weights(plain)["large"] - before["large"]).norm()
    apart = (weights(plain)["large"] - weights(compact)["large"]).norm()
    assert 0 < apart < 0.05 * moved
    large = compact.optimiser.state[compact.stepped[0]]
    taken = sum(one.nbytes for key in ("exp_avg", "exp_avg_sq") for one in parts_of(large[key]).values())
    assert taken == 2 * WIDTH_8BIT * 128 * 64


@pytest.mark.usefixtures("torchao")
def test_a_state_that_was_saved_goes_on_to_the_same_bits():
    straight, first, second = role("8bit"), role("8bit"), role("8bit")
    steps(straight, range(12))
    steps(first, range(5))
    state = first.state()
    assert all(type(value) is torch.Tensor for value in state.values())
    assert state["student.large/exp_avg.codes"].dtype == torch.uint8 and "student.small/exp_avg" in state
    second.modules["student"].load_state_dict(weights(first))
    second.load(state)
    steps(second, range(5, 12))
    assert same(weights(second), weights(straight)) and same(second.state(), straight.state())


@pytest.mark.usefixtures("torchao")
def test_a_run_that_is_interrupted_ends_in_the_same_bits_and_in_others_than_with_float32(tmp_path):
    recipe = tiny("dmd2", moments="8bit")
    straight = finish(run(recipe, tmp_path / "straight", teacher=teacher()))
    with pytest.raises(Stopped):
        finish(run(recipe, tmp_path / "broken", teacher=teacher()), stop_after(14 * BATCH))
    assert same(finish(run(recipe, tmp_path / "broken", teacher=teacher())), straight)
    assert checkpoint_bytes(tmp_path / "broken") == checkpoint_bytes(tmp_path / "straight")
    assert not same(straight, finish(run(tiny("dmd2"), tmp_path / "plain", teacher=teacher())))


@pytest.mark.usefixtures("torchao")
@pytest.mark.parametrize("gpu", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_estimate_tells_what_they_take(gpu):
    plain, compact = (rehearse(tiny("dmd2", moments=moments), teacher(), Machine(gpu=gpu))[0].kinds
                      for moments in ("float32", "8bit"))  # fmt: skip
    assert 0.25 * plain["moments"] < compact["moments"] < 0.4 * plain["moments"]    # norms and biases are small
    assert all(compact[kind] == plain[kind] for kind in ("weights", "average"))
    assert 0 < compact["other"] - plain["other"] < 100_000      # for each, the 256 values that codes stand for


def test_without_torchao_and_with_another_optimiser_they_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="moments: 8bit goes with kind: adamw, not with radam"):
        OptimiserSettings(kind="radam", moments="8bit")
    monkeypatch.setattr(moments_8bit, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="needs the package torchao") as refused:
        role("8bit")
    assert "fewstep[8bit]" in refused.value.hint

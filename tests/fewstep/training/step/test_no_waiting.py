"""No step of any recipe looks at a value on its device, which on a GPU would wait for all that was asked of it."""

import pytest
import torch

from benchmarks.made_up_device import DEVICE, NoWaiting, known_to_torch, trainers
from fewstep.training.loss_meter import Figures
from fewstep.util.device import number_on, sent
from tests.fewstep.training.each_recipe import EACH_RECIPE
from tests.fewstep.training.small import data, teacher, tiny

CYCLES = 8


@pytest.mark.parametrize("name", EACH_RECIPE)
def test_a_step_in_every_role_s_turn_early_and_late_in_every_round(name, tmp_path):
    recipe = tiny(name, precision="float32")
    images = recipe.images_for(CYCLES * max(sum(own.turns.values()) for own in recipe.rounds))
    with known_to_torch():
        for trainer in trainers(recipe, teacher(), data(), tmp_path, images):
            figures = Figures(trainer.where)
            steps = [cycle * len(trainer.cycle) + trainer.cycle.index(role)
                     for cycle in (0, CYCLES - 1) for role in trainer.round.turns]  # fmt: skip
            for step in steps:      # what is kept from then on, such as tables of noise levels, is brought once
                trainer.turn(step, figures)
            with NoWaiting():
                for step in steps:
                    trainer.turn(step, figures)
            assert all(p.device == DEVICE for p in trainer.state.networks["student"].parameters())


@pytest.mark.parametrize("look", [
    lambda x: x.sum().item(), lambda x: bool((x > 0).all()), lambda x: x.nonzero(), lambda x: x[x > 0],
    lambda x: x.cpu(), torch.unique,
])  # fmt: skip
def test_the_made_up_device_refuses_whoever_looks(look):
    with pytest.raises((RuntimeError, NotImplementedError)):
        look(torch.randn(3, device=DEVICE))


@pytest.mark.parametrize("bring", [
    lambda x: x.to(DEVICE), lambda x: torch.tensor(2.0, device=DEVICE), lambda x: torch.as_tensor(x, device=DEVICE),
    lambda x: torch.empty(3, device=DEVICE).copy_(x),
])  # fmt: skip
def test_it_refuses_copies_that_are_waited_for(bring):
    with NoWaiting():
        assert sent(torch.ones(3), DEVICE).device == number_on(DEVICE, 2.0).device == DEVICE
        with pytest.raises(RuntimeError, match="waits for it"):
            bring(torch.ones(3))

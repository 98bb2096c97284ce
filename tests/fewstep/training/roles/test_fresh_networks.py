"""Recipes that need no teacher, trained from data alone; and teachers that a call leaves as they are."""

import copy

import pytest
import torch

from fewstep.diffusion.adapters import Angle, Timestep
from fewstep.diffusion.processes import VariancePreserving
from fewstep.networks.unet_mlp import ResidualMLP
from fewstep.recipes import load_recipe, parse_recipe, recipe_names
from fewstep.teachers import GaussianMixture
from fewstep.training import TensorData, api, distill
from fewstep.training.roles import fit_network
from fewstep.training.roles.fresh_networks import untrained
from fewstep.training.step.batches import ExactData, PartlyLabelled
from tests.fewstep.training.small import data, teacher, tiny

WITHOUT = [name for name in recipe_names() if not load_recipe(name).needs.teacher]


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) and value.dtype == other[name].dtype for name, value in one.items()
    )


def test_those_that_need_no_teacher_say_so():
    assert WITHOUT == ["ct", "dm1", "ict", "meanflow", "splitmeanflow", "twinflow"]
    assert all("needs no teacher" in load_recipe(name).summary for name in WITHOUT)


@pytest.mark.parametrize("name", WITHOUT)
def test_they_train_from_data_alone(name):
    x, noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), torch.ones(5, 3)
    found = distill(tiny(name), data=(x, torch.arange(60) % 4), images=16, device="cpu")
    own = found.denoiser
    assert isinstance(own.process, VariancePreserving) and isinstance(own.adapter, Angle)
    assert (own.sample_shape, own.num_classes, own.null_class) == ((3,), 4, 4)
    assert torch.isfinite(found.sample(noise, condition=torch.arange(5))).all()


def test_without_labels_there_are_no_classes_and_equal_seeds_give_equal_students():
    found = [distill(tiny("ct"), None, data=torch.ones(9, 2), images=16, seed=s, device="cpu") for s in (1, 1, 2)]
    assert (found[0].denoiser.num_classes, found[0].denoiser.null_class) == (0, None)
    one, again, other = (weights(student.denoiser) for student in found)
    assert equal(one, again) and not equal(one, other)


def test_images_get_the_network_of_the_teacher_stage():
    found = distill(tiny("meanflow"), data=data(), images=16, device="cpu")
    own = found.denoiser
    assert own.network.config.block_out_channels == (32, 32) and isinstance(own.adapter, Timestep)
    assert (own.sample_shape, own.num_classes, own.null_class) == ((1, 8, 8), 3, 3)
    assert torch.isfinite(found.sample(torch.randn(2, 1, 8, 8))).all()


def test_a_closed_form_may_give_the_data_alone():
    found = distill(tiny("ct"), data=ExactData(GaussianMixture(torch.eye(2), 0.1)), images=16, device="cpu")
    assert (found.denoiser.num_classes, found.denoiser.null_class) == (2, 2)


def test_every_tenth_sample_goes_without_its_label_wherever_the_batches_are_cut(monkeypatch):
    x, y = torch.arange(30.0)[:, None], torch.arange(30) % 3
    source = PartlyLabelled(TensorData(x, y), 3)
    whole, parts = source.batch(5, 0, 60), [source.batch(5, k, 4) for k in range(0, 60, 4)]
    assert torch.equal(whole[1], torch.cat([labels for _, labels in parts]))
    assert torch.equal(whole[1] == 3, torch.arange(60) % 10 == 0)
    assert torch.equal(torch.where(whole[1] == 3, y[whole[0][:, 0].long()], whole[1]), y[whole[0][:, 0].long()])

    seen = []
    monkeypatch.setattr(api, "Distillation", lambda *_, data, **__: seen.append(data) or 1 / 0)
    for own in (None, teacher()):
        with pytest.raises(ZeroDivisionError):
            distill("ct", own, data=data(), device="cpu")
    assert isinstance(seen[0], PartlyLabelled) and isinstance(seen[1], TensorData)


def test_what_stands_for_the_teacher_is_fresh_and_keyed():
    one, again, other = (untrained((2,), 3, seed) for seed in (0, 0, 1))
    assert isinstance(one.network, ResidualMLP) and equal(weights(one), weights(again))
    assert not equal(weights(one), weights(other))


def test_a_later_round_that_has_the_teacher_make_pairs_needs_a_teacher():
    rounds = [{"terms": [{"term": "denoising"}]}, {"terms": [{"term": "regression", "at": "noise"}]}]
    for own, needed in (("teacher", True), ("previous", False)):
        rounds[1]["teacher"] = own
        found = parse_recipe({"name": "own", "student": {"init": "random"}, "rounds": rounds}, "own")
        assert found.rounds[1].needs.pairs and found.needs.teacher == needed


@pytest.mark.parametrize("closed_form", [False, True])
def test_the_callers_teacher_stays_as_it_is(closed_form, monkeypatch):
    monkeypatch.setattr(fit_network.fit, "__defaults__", ("cpu", 5))
    own = GaussianMixture(3 * torch.eye(2), 0.1) if closed_form else teacher()
    own.train()
    held = next(iter(own.parameters()), None)
    if held is not None:
        held.requires_grad_(False)
    before, asks = copy.deepcopy(own), [value.requires_grad for value in own.parameters()]
    modes = [module.training for module in own.modules()]
    recipe, source = tiny("dmd2", precision="float64"), None if closed_form else data()
    found = distill(recipe, own, data=source, images=48, device="cpu")
    assert equal(weights(own), weights(before)) and own.describe() == before.describe()
    assert [value.requires_grad for value in own.parameters()] == asks
    assert [module.training for module in own.modules()] == modes
    assert {value.device for value in own.state_dict().values()} == {torch.device("cpu")}
    assert own.evaluations == 0 and not set(map(id, found.parameters())) & set(map(id, own.parameters()))

"""Networks of our own making: keyed weights, PyTorch's usual distribution, honest refusals."""

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from fewstep.networks.initial_weights import build, initialise
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.util.errors import SettingsError


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def test_weights_are_a_function_of_the_generator():
    before = torch.get_rng_state()
    first, again, other = (
        flat(new_unet(8, 1, 10, (16, 32), generator=torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_distributed_as_pytorch_draws_them():
    ours = new_unet(8, 1, 10, (32, 64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stock = UNet2DModel(**ours.config)
    for (name, mine), theirs in zip(ours.named_parameters(), stock.parameters(), strict=True):
        assert mine.shape == theirs.shape
        if mine.numel() > 1000:
            assert abs(mine.std() / theirs.std() - 1) < 0.1, name
            assert abs(mine.abs().max() / theirs.abs().max() - 1) < 0.3, name


def test_the_default_teacher_takes_images_times_and_labels():
    network = new_unet(8, 1, 10, (32, 64), 1, True)
    assert network.config.num_class_embeds == 11 and not network.training
    x = torch.randn(2, 1, 8, 8)
    assert network(x, torch.tensor([999.0, 3.5]), class_labels=torch.tensor([10, 0])).sample.shape == x.shape
    assert new_unet(16, 3, 0).config.num_class_embeds is None
    assert new_unet(8, 1, 4, null_class=False).config.num_class_embeds == 4


def test_sizes_that_do_not_fit_are_refused():
    for widths in ((), (12,), (0, 8)):
        with pytest.raises(SettingsError, match="multiples of 8"):
            new_unet(8, 1, 0, widths)
    with pytest.raises(SettingsError, match="halved 2 times"):
        new_unet(10, 1, 0, (8, 8, 8))


def test_an_unknown_layer_is_refused():
    with pytest.raises(SettingsError, match="0 .PReLU"):
        initialise(nn.Sequential(nn.PReLU()), torch.Generator())


def test_the_mlp_takes_any_sample_shape():
    network = build(lambda: ResidualMLP((1, 2, 3), 5, 16, 1))
    x = torch.randn(4, 1, 2, 3)
    assert network(x, torch.tensor([0.0, 0.1, 1.0, 1.5707]), torch.arange(4)).shape == x.shape
    assert network(x[:0], torch.zeros(0), torch.arange(0)).shape == (0, 1, 2, 3)


def test_the_mlp_tells_apart_points_as_near_as_a_narrow_mode_is_wide():
    """A step of width 0.02 at 0: what a network of the bare coordinates smooths over, within 300 updates."""
    network = build(lambda: ResidualMLP((2,), 0, 64, 2)).requires_grad_(True).train()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    source = torch.Generator().manual_seed(0)
    for _ in range(300):
        x = torch.randn(256, 2, generator=source)
        loss = (network(x, torch.ones(256)) - (x / 0.02).tanh()).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.006   # 0.023 with the bare coordinates

"""Gradient checkpointing changes no bit of a gradient; forward derivatives under it take two passes."""

import pytest
import torch

from fewstep.diffusion.network_inputs import ExtraInputs, GuidanceRange
from fewstep.networks.block_features import predict_with_features
from fewstep.networks.extra_inputs import add_inputs
from fewstep.networks.gradient_checkpointing import checkpoint_blocks, is_checkpointed
from fewstep.objectives.common.derivatives import jvp
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.families.teachers import batch, teacher


def gradients(own) -> dict[str, torch.Tensor]:
    """Of a loss of a prediction and of features, and leaves none behind."""
    prediction, features = predict_with_features(own, *batch(own), second=0.5, every=True)
    loss = prediction.x0.square().mean() + sum(feature.square().mean() for feature in features)
    loss.backward()
    found = {name: value.grad.clone() for name, value in own.named_parameters() if value.grad is not None}
    own.zero_grad()
    return found


@pytest.mark.parametrize("kind", list(KINDS))
def test_gradients_are_equal_bit_for_bit(kind):
    own = add_inputs(teacher(kind), ExtraInputs(True, GuidanceRange(1.0, 5.0, 2.5))).requires_grad_(True)
    plain = gradients(own)
    checkpoint_blocks(own.network)
    assert is_checkpointed(own.network)
    checkpointed = gradients(own)
    assert plain.keys() == checkpointed.keys() and len(plain) > 20
    unlike = [name for name in plain if not torch.equal(plain[name], checkpointed[name])]
    assert not unlike, unlike
    checkpoint_blocks(own.network, on=False)
    assert not is_checkpointed(own.network)


@pytest.mark.parametrize("kind", ["sd", "sd3", "wan"])
def test_derivatives_in_two_passes_are_those_of_one(kind):
    own = teacher(kind).requires_grad_(True)
    x, t, condition = batch(own)
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)), torch.ones_like(t)

    def found(twice: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value, slope = jvp(lambda x, t: own.predict(x, t, condition).output, (x, t), along, twice=twice)
        (value - slope).square().mean().backward()
        grads = {name: p.grad.clone() for name, p in own.named_parameters() if p.grad is not None}
        own.zero_grad()
        return slope, grads

    slope, grads = found(False)
    checkpoint_blocks(own.network)
    again, others = found(True)
    assert (again - slope).abs().max() < 1e-5 * slope.abs().max()
    assert grads.keys() == others.keys()
    largest = max(float(value.abs().max()) for value in grads.values())
    assert all((others[name] - grads[name]).abs().max() < 1e-4 * largest for name in grads)


def test_a_network_without_it_says_so():
    with pytest.raises(SettingsError, match="no gradient checkpointing"):
        checkpoint_blocks(torch.nn.Linear(2, 2))

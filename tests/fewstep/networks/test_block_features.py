"""Features alone: the call ends behind the last block that is wanted, and what it gave is that of the whole call."""

from contextlib import suppress

import pytest
import torch
from torch import nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs
from fewstep.networks.block_features import features_at, predict_with_features, watched
from fewstep.networks.brought_weights import bring_when_called
from fewstep.networks.extra_inputs import add_inputs
from fewstep.networks.gradient_checkpointing import checkpoint_blocks
from fewstep.networks.network_blocks import blocks, last_layer, middle
from fewstep.teachers import GaussianMixture
from fewstep.training.roles.fit_network import stand_in
from tests.fewstep.families import teachers as families
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.training import small


def closed_form() -> Denoiser:
    """The network that stands for a closed form's features."""
    return stand_in(GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.3), 0, torch.device("cpu"))


OWN = {"unet": small.teacher, "closed form": closed_form}


def network_of(kind: str) -> Denoiser:
    made = OWN[kind]() if kind in OWN else families.teacher(kind)
    return made.eval().requires_grad_(True)


def called(network: nn.Module, work) -> list[nn.Module]:
    """The blocks of the network that `work` called, and its last layer, in their order."""
    seen: list[nn.Module] = []
    modules = [*blocks(network), last_layer(network)]
    handles = [module.register_forward_pre_hook(lambda one, _given: seen.append(one)) for module in modules]
    work()
    for handle in handles:
        handle.remove()
    return seen


def gradients(own: Denoiser, features: list[torch.Tensor], x: torch.Tensor) -> list[torch.Tensor | None]:
    """Of a loss of the features, to the input and every weight."""
    parameters = list(own.network.parameters())
    return list(torch.autograd.grad(sum(f.square().sum() for f in features), [x, *parameters], allow_unused=True))


@pytest.mark.parametrize("kind", [*OWN, *KINDS])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
def test_features_alone_are_those_of_the_whole_call_and_no_later_block_is_called(kind, checkpointed):
    own = network_of(kind)
    if checkpointed and kind == "closed form":
        pytest.skip("it has no gradient checkpointing")
    if checkpointed:
        checkpoint_blocks(own.network)
    x, t, condition = families.batch(own)
    x.requires_grad_()
    order = called(own.network, lambda: own.predict(x, t, condition))
    found: list[torch.Tensor] = []
    early = called(own.network, lambda: found.extend(features_at(own, x, t, condition)))
    place = order.index(middle(own.network)) + 1
    assert early == order[:place] and len(order) > place
    whole = predict_with_features(own, x, t, condition)[1]
    assert len(found) == len(whole) == 1 and torch.equal(found[0], whole[0])
    for one, other in zip(gradients(own, found, x), gradients(own, whole, x), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_several_blocks_are_waited_for_and_a_network_that_stopped_is_as_before():
    own = add_inputs(network_of("unet"), ExtraInputs(second_time=True))
    x, t, condition = families.batch(own)
    before = own.predict(x, t, condition, second=t / 2).output
    wanted = [own.network.up_blocks[0], own.network.down_blocks[0]]
    with watched(own, wanted, only=True) as features:
        own.predict(x, t, condition, second=t / 2)
        pytest.fail("the call ends with its features")
    assert len(features) == 2
    assert torch.equal(own.predict(x, t, condition, second=t / 2).output, before)


def test_weights_that_were_brought_for_a_call_that_stopped_are_taken_back():
    own = network_of("unet").requires_grad_(False)
    kept = list(own.network.parameters())
    expected = features_at(own, *families.batch(own))
    bring_when_called(own.network, torch.device("cpu"))
    assert torch.equal(features_at(own, *families.batch(own))[0], expected[0])
    assert all(one is other for one, other in zip(own.network.parameters(), kept, strict=True))


def test_a_failure_within_the_call_is_not_taken_for_its_end():
    own = network_of("unet")
    own.network.down_blocks[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with suppress(ZeroDivisionError):
        features_at(own, *families.batch(own))
        pytest.fail("the failure was swallowed")

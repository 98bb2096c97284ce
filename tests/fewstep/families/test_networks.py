"""What is done to a network works on the networks of every family: blocks, features, further inputs, last layers."""

import copy
import math

import pytest
import torch

from fewstep.diffusion.network_inputs import ExtraInputs, GuidanceRange
from fewstep.networks.block_features import predict_with_features, watched, watched_inputs
from fewstep.networks.extra_inputs import add_inputs, embeds_scale
from fewstep.networks.folding import fold_additions
from fewstep.networks.network_blocks import blocks, last_layer, middle
from fewstep.networks.output_layers import side_outputs
from fewstep.networks.state_layout import layout_of
from fewstep.objectives.common.feature_heads import FeatureHeads
from fewstep.students.student import make_student
from fewstep.students.student_settings import LoraSettings, SizeSettings, StudentSettings
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.families.teachers import batch, teacher

GRIDS = {
    "sd": (16, 16), "sd-v": (16, 16), "sdxl": (16, 16), "sd3": (16, 16), "flux": (16, 16), "sana": (16, 16),
    "pixart": (8, 8), "dit": (8, 8), "wan": (3, 2, 2), "ltx": (2, 1, 1), "cogvideox": (3, 2, 2), "stable_audio": (4,),
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def kind(request) -> str:
    return request.param


def test_features_are_channels_on_the_grid_of_the_states(kind):
    own = teacher(kind)
    layout = layout_of(own)
    prediction, features = predict_with_features(own, *batch(own), every=True)
    assert torch.equal(prediction.output, own.predict(*batch(own)).output)
    assert len(features) == len(blocks(own.network))
    for feature in features:
        assert feature.shape[0] == 2 and feature.ndim == 2 + len(layout.grid), (feature.shape, layout)
        places = math.prod(feature.shape[2:])
        assert places <= math.prod(layout.grid) + 1  # Stable Audio has a token for its durations
    inner = predict_with_features(own, *batch(own))[1]
    assert len(inner) == 1 and middle(own.network) in blocks(own.network)
    place = blocks(own.network).index(middle(own.network))
    assert torch.equal(inner[0], features[place])


def test_the_stream_of_a_joint_block_is_that_of_the_states():
    own = teacher("sd3")
    seen = []
    handle = own.network.transformer_blocks[0].register_forward_hook(lambda _m, _v, output: seen.append(output))
    with watched(own, [own.network.transformer_blocks[0]]) as features:
        own.predict(*batch(own))
    handle.remove()
    text, image = seen[0]
    assert text.shape[1] != image.shape[1] and torch.equal(features[0].flatten(2).transpose(1, 2), image)


def test_heads_read_the_channels_of_tokens_and_not_their_places():
    own = teacher("sd3")
    feature = predict_with_features(own, *batch(own))[1][0]
    heads = FeatureHeads([feature.shape[1]], 8, 0)
    assert feature.shape[1] == own.network.inner_dim
    mixed = feature.flatten(2)[:, :, torch.randperm(feature[0, 0].numel(), generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(heads([feature]), heads([mixed]))


def test_a_second_time_and_a_scale_start_without_effect_are_followed_and_fold_away(kind):
    plain = teacher(kind)
    own = add_inputs(copy.deepcopy(plain), ExtraInputs(True, GuidanceRange(1.0, 5.0, 2.5), True))
    x, t, condition = batch(own)
    scale = plain.adapter.call.guidance_scale if embeds_scale(plain) else 4.0
    expected = plain.predict(x, t, condition).output
    given = {"second": t / 2, "scale": torch.full((2,), scale)}
    assert torch.equal(own.predict(x, t, condition, **given).output, expected)
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in own.named_parameters():
            if any(part in name for part in (".second.", ".scale.", ".negative.")):
                value.add_(0.3 * torch.randn(value.shape, generator=source))
    learnt = own.predict(x, t, condition).output
    for change in ({"second": t / 2}, {"scale": 5.0}, {"negative": True}):
        assert not torch.allclose(own.predict(x, t, condition, **change).output, learnt, atol=1e-6), change
    folded = fold_additions(own)
    assert not folded.inputs and {n for n, _ in folded.named_parameters()} == {n for n, _ in plain.named_parameters()}
    torch.testing.assert_close(folded.predict(x, t, condition).output, learnt, rtol=1e-4, atol=1e-5)


def test_side_outputs_lie_in_the_states_as_the_networks_own(kind):
    own = teacher(kind)
    with watched_inputs([last_layer(own.network)]) as inner:
        expected = own.predict(*batch(own)).output
    found = side_outputs(own, 2, batch(own, 1))
    layer = last_layer(own.network)
    with torch.no_grad():  # twice the last layer itself
        if found.places is None:
            found.layer.weight.copy_(layer.weight.repeat(2, 1, 1, 1))
            found.layer.bias.copy_(layer.bias.repeat(2))
        else:
            found.layer.weight.copy_(layer.weight.repeat(2, 1))
            found.layer.bias.copy_(layer.bias.repeat(2) if layer.bias is not None else torch.zeros(()))
    states = found(inner[0])
    assert states.shape == (2, 2, *own.sample_shape)
    if kind != "stable_audio":  # what is added to its last layer's output, and its preconditioning, are left out
        torch.testing.assert_close(states[:, 0], expected)
        torch.testing.assert_close(states[:, 1], expected)


def test_fresh_weights_are_a_function_of_the_seed_and_draw_nothing_from_the_global_generator(kind):
    plain, before = teacher(kind), torch.get_rng_state()
    settings = StudentSettings(init="random")
    made = [make_student(plain, settings, seed).denoiser.network.state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = made
    assert all(torch.equal(again[name], value) for name, value in first.items())
    drawn = [name for name, value in first.items() if not torch.equal(other[name], value)]
    own = plain.network.state_dict()
    assert len(drawn) >= 10 and all(not torch.equal(own[name], first[name]) for name in drawn)
    student = make_student(plain, StudentSettings(init="random")).denoiser.eval()
    assert student.predict(*batch(plain)).output.isfinite().all()


def test_a_shallower_network_keeps_the_blocks_that_matter(kind):
    plain = teacher(kind)
    student = make_student(plain, StudentSettings(size=SizeSettings(depth=0.5))).denoiser.eval()
    assert type(student.network) is type(plain.network)
    assert len(blocks(student.network)) <= len(blocks(plain.network))
    own, theirs = student.network.state_dict(), plain.network.state_dict()
    kept = {tuple(value.flatten().tolist()) for value in theirs.values()}
    assert all(tuple(value.flatten().tolist()) in kept for value in own.values())
    assert student.predict(*batch(plain)).output.shape == (2, *plain.sample_shape)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_text_unet_is_made_narrower_and_a_transformer_refuses(kind):
    plain = teacher(kind)
    student = make_student(plain, StudentSettings(size=SizeSettings(width=0.5, middle=False))).denoiser.eval()
    assert student.network.mid_block is None and student.network.config.block_out_channels == (8, 8)
    assert student.predict(*batch(plain)).output.isfinite().all()
    with pytest.raises(SettingsError, match="depth only"):
        make_student(teacher("pixart"), StudentSettings(size=SizeSettings(width=0.5)))


def test_adapters_start_without_effect_and_merge(kind):
    plain = teacher(kind)
    student = make_student(plain, StudentSettings(lora=LoraSettings(rank=2))).denoiser.eval()
    expected = plain.predict(*batch(plain)).output
    torch.testing.assert_close(student.predict(*batch(plain)).output, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for name, value in student.named_parameters():
            if "lora_B" in name:
                value.add_(0.1)
    learnt, merged = student.predict(*batch(plain)).output, fold_additions(student)
    assert not torch.allclose(learnt, expected, atol=1e-5)
    torch.testing.assert_close(merged.predict(*batch(plain)).output, learnt, rtol=1e-3, atol=1e-4)
    assert {n for n, _ in merged.named_parameters()} == {n for n, _ in plain.named_parameters()}

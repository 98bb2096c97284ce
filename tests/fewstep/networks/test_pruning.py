"""Smaller students: of the same kind, cheaper, with the layers and channels of the teacher that matter."""

import pytest
import torch
from diffusers import DiffusionPipeline

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.network_blocks import matching, stages
from fewstep.networks.pruning import inherit, most_needed, smaller
from fewstep.networks.unet_mlp import new_unet
from fewstep.students.export import export_student, load_student
from fewstep.students.student import make_student
from fewstep.students.student_settings import SizeSettings, StudentSettings
from fewstep.util.errors import SettingsError
from tests.fewstep.networks.untrained import VP, batch, origin


def teacher_of(kind: str, layers: int = 3) -> Denoiser:
    return origin(kind, hidden=32, blocks=layers, layers=layers)


def count(denoiser: Denoiser) -> int:
    return sum(value.numel() for value in denoiser.parameters())


@pytest.mark.parametrize("kind", ["mlp", "unet"])
@pytest.mark.parametrize("init", ["teacher", "random"])
def test_a_smaller_student_works_and_is_smaller(kind, init):
    teacher = teacher_of(kind)
    for size in ({"width": 0.5, "middle": False}, {"depth": 0.34}):
        settings = StudentSettings(init=init, size=SizeSettings(**size))
        student, again = (make_student(teacher, settings, seed).denoiser.eval() for seed in (0, 0))
        assert type(student.network) is type(teacher.network) and count(student) < 0.9 * count(teacher)
        found = student.predict(*batch(teacher)).output
        assert found.shape == batch(teacher)[0].shape and torch.isfinite(found).all()
        assert torch.equal(found, again.predict(*batch(teacher)).output)
    same = make_student(teacher, StudentSettings(size=SizeSettings())).denoiser.eval()
    assert torch.equal(same.predict(*batch(teacher)).output, teacher.predict(*batch(teacher)).output)


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_layers_that_do_nothing_are_the_ones_that_go(kind):
    teacher = teacher_of(kind)
    network = teacher.network
    idle = [network.blocks[0], network.blocks[2]] if kind == "mlp" else [
        part[block].resnets[k] for block in (0, 1) for part, k in ((network.down_blocks, 1), (network.up_blocks, 2))
    ]  # fmt: skip
    with torch.no_grad():
        for layer in idle:
            last = layer.second if kind == "mlp" else layer.conv2
            last.weight.zero_()
            last.bias.zero_()
        if kind == "unet":  # an idle layer of an up block passes on what comes from below
            for block in network.up_blocks:
                shortcut = block.resnets[2].conv_shortcut
                shortcut.weight.zero_()
                shortcut.bias.zero_()
                shortcut.weight[:, :, 0, 0].fill_diagonal_(1.0)
    kept = most_needed(network, 0.34 if kind == "mlp" else 0.67, lambda: teacher.predict(*batch(teacher)).output)
    if kind == "mlp":
        assert kept == {"blocks": [1]}
    else:
        assert {part: k for part, k in kept.items() if part.endswith("resnets")} == {
            **{f"down_blocks.{block}.resnets": [0, 2] for block in (0, 1)},
            **{f"up_blocks.{block}.resnets": [0, 1, 3] for block in (0, 1)},
        }
    small = smaller(network, 1.0, 0.34 if kind == "mlp" else 0.67, True, torch.Generator())
    inherit(small, network, kept)
    student = Denoiser(small, VP, "v_prediction", teacher.sample_shape, 3, 3, teacher.adapter).eval()
    if kind == "mlp":  # each layer of the MLP adds the embedding of the time, so that an idle one is not nothing
        assert torch.equal(small.blocks[0].first.weight, network.blocks[1].first.weight)
    else:
        far = student.predict(*batch(teacher)).output - teacher.predict(*batch(teacher)).output
        fresh = make_student(teacher, StudentSettings(init="random", size=SizeSettings(depth=0.67))).denoiser.eval()
        farther = fresh.predict(*batch(teacher)).output - teacher.predict(*batch(teacher)).output
        assert far.norm() < 0.5 * farther.norm()


def test_channels_that_do_nothing_cost_nothing_when_they_go():
    """A UNet whose second half of channels is silent: what remains of half the width computes the same."""
    large, small = (new_unet(8, 1, 3, widths, 1, generator=torch.Generator().manual_seed(1)) for widths in
                    ((16, 16), (8, 8)))  # fmt: skip
    assert smaller(large, 0.5, 1.0, True, torch.Generator()).config["block_out_channels"] == (8, 8)
    inherit(small, large, {f"{part}.{b}.resnets": list(range(n)) for part, n in (("down_blocks", 1), ("up_blocks", 2))
                           for b in (0, 1)})  # fmt: skip
    up, wide = small.up_blocks[0].resnets[0].conv1.weight, large.up_blocks[0].resnets[0].conv1.weight
    assert torch.equal(up[:, :8], wide[:8, :8]) and torch.equal(up[:, 8:], wide[:8, 16:24])
    assert torch.equal(small.conv_out.weight, large.conv_out.weight[:, :8])


def test_stages_match_by_the_share_that_is_done():
    three, two = teacher_of("mlp").network, teacher_of("mlp", 2).network
    assert [theirs for _, theirs in matching(two, three)] == [three.blocks[1], three.blocks[2], three.mid_block]
    large = teacher_of("unet").network
    small = smaller(large, 0.5, 0.5, False, torch.Generator())
    assert [theirs for _, theirs in matching(small, large)] == [*large.down_blocks, *large.up_blocks]
    assert [len(part) for part in stages(large).values()] == [2, 1, 2]
    with pytest.raises(SettingsError, match="no stages in common"):
        matching(two, large)
    with pytest.raises(SettingsError, match="no stages"):
        stages(torch.nn.Linear(2, 2))
    with pytest.raises(SettingsError, match="cannot be made smaller"):
        smaller(torch.nn.Linear(2, 2), 0.5, 1.0, True, torch.Generator())


def test_a_smaller_student_exports_as_a_stock_pipeline(tmp_path):
    size = SizeSettings(width=0.5, depth=0.5, middle=False)
    student = make_student(teacher_of("unet"), StudentSettings(size=size)).eval()
    export_student(student, tmp_path)
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(4) % 3
    assert torch.equal(load_student(tmp_path).sample(noise, condition=labels), student.sample(noise, condition=labels))
    pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert pipe.unet.config["block_out_channels"] == [8, 8] and pipe.unet.mid_block is None

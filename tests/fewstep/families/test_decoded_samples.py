"""Functions of samples on teachers of latents: gradients through the autoencoder, a reward that images climb."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from fewstep.diffusion.randomness import noise
from fewstep.families.codec import Codec, SampleDecoder
from fewstep.families.recorded_family import record_family
from fewstep.recipes import parse_recipe
from fewstep.training.distillation import Distillation
from fewstep.training.run_options import RunOptions
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.families.teachers import teacher

RECIPE = {
    "name": "redness", "summary": "redder", "status": "own", "student": {"steps": 1, "init": "teacher"},
    "training": {"batch": 8},
    "rounds": [{"terms": [{"term": "reward", "reward": {"kind": "python", "function": f"{__name__}:redness"}}]}],
}  # fmt: skip


def redness(x: torch.Tensor, _condition: torch.Tensor | None) -> torch.Tensor:
    """More red than the rest, of images as people see them."""
    assert x.shape[1:] == (3, 32, 32) and x.abs().max() <= 1
    return (x[:, 0] - x[:, 1:].mean(1)).flatten(1).mean(1)


def codec(kind: str) -> Codec:
    pipe = KINDS[kind].build()
    return Codec(pipe, record_family(pipe, KINDS[kind].arguments))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sd-v"])
def test_what_is_decoded_is_the_pipelines_own_and_has_gradients(kind):
    known = codec(kind)
    decoder = SampleDecoder(known)
    states = torch.randn((2, *known.family.state), generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = decoder(states)
    assert torch.allclose(found, known.decode(states.detach()).clamp(-1, 1), atol=1e-4)
    found.sum().backward()
    assert torch.isfinite(states.grad).all() and float(states.grad.abs().max()) > 0
    assert copy.deepcopy({"decoder": decoder})["decoder"] is decoder
    assert not any(parameter.requires_grad for parameter in known.autoencoder.parameters())


def test_an_autoencoder_that_is_told_more_than_latents_is_refused(monkeypatch):
    known = codec("sd")
    kind, plain = type(known.autoencoder), type(known.autoencoder).decode

    def decode(self, z, return_dict=True, generator=None):
        return plain(self, z if generator is None else -z, return_dict=return_dict)

    monkeypatch.setattr(kind, "decode", decode)
    with pytest.raises(SettingsError, match="StableDiffusionPipeline: its autoencoder is called with more than its"):
        SampleDecoder(known)


def test_a_reward_of_images_is_climbed_by_a_student_of_latents(tmp_path: Path):
    known, origin = codec("sd"), teacher("sd")
    origin.decoder = SampleDecoder(known)

    def drawn(denoiser) -> float:
        start = noise(0, "test", range(32), denoiser.sample_shape)
        with torch.no_grad():
            states = denoiser.x0(start * float(denoiser.process.scale(torch.tensor(denoiser.process.t_max))),
                                 torch.full((32,), float(denoiser.process.t_max)), torch.arange(32) % 4)  # fmt: skip
            return float(redness(known.decode(states).clamp(-1, 1), None).mean())

    before = drawn(origin)
    run = Distillation(parse_recipe(RECIPE, "reward"), origin, RunOptions(8 * 30, 0, tmp_path))
    assert drawn(run.student().denoiser) > before + 0.01

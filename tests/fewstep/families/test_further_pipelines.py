"""Pipelines that call their denoiser in other forms: time the other way round, lists, texts of their own lengths, rows
for every frame. They are replayed as they are, or refused with what was seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from fewstep.diffusion.adapters import Adapter
from fewstep.diffusion.network_call import LENGTH
from fewstep.families.codec import Codec, SampleDecoder
from fewstep.families.family import Family
from fewstep.families.pooled import pooled
from fewstep.families.recorded_conditions import table_of
from fewstep.families.recording import call_parameters
from fewstep.families.trial import unguided_scale
from fewstep.teachers import load_teacher
from fewstep.util.errors import SettingsError
from tests.fewstep.families.further_pipelines import FURTHER, REFUSED
from tests.fewstep.families.image_pipelines import picture
from tests.fewstep.families.test_replay import PROMPTS, SCALE, Watched, native

REVERSED = ("lumina2", "z_image")
RAGGED = {"z_image": ("cap_feats", "cap_feats" + LENGTH),
          "qwen_image": ("encoder_hidden_states", "encoder_hidden_states_mask"),
          "kandinsky3": ("encoder_hidden_states", "encoder_attention_mask")}  # fmt: skip


@pytest.fixture(scope="module", params=list(FURTHER))
def loaded(request, tmp_path_factory) -> tuple[str, Any, Any]:
    """Name, pipeline, and the teacher that was loaded from its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    pipe = FURTHER[request.param].save(folder)
    return request.param, pipe, load_teacher(folder, arguments=FURTHER[request.param].arguments)


def guidance(pipe: Any, teacher: Any, scale: float) -> dict[str, Any]:
    """Arguments of the pipeline's call for this scale, of which 1 is none."""
    if "true_cfg_scale" in call_parameters(pipe):
        return {"true_cfg_scale": scale, **({} if scale == 1 else {"negative_prompt": [""]})}
    return {"guidance_scale": scale - 1 + teacher.family.unguided}


@pytest.mark.parametrize("scale", [1.0, SCALE])
def test_predictions_are_those_of_the_pipeline_for_each_prompt_alone(loaded, scale):
    kind, pipe, teacher = loaded
    family = teacher.family
    if scale != 1.0 and family.guidance is None:
        assert kind == "guided_by_embedding"
        return
    images = {name: [picture(family.images.size, seed) for seed in (0, 1)]
              for name in (family.images.names if family.images else ())}  # fmt: skip
    teacher.take(table_of(pipe, family, PROMPTS, images=images or None))
    for row, prompt in enumerate(PROMPTS):
        image = family.images.of({name: pair[row] for name, pair in images.items()}, 1) if images else {}
        how = guidance(pipe, teacher, scale)
        seen = Watched(pipe, family.part, **FURTHER[kind].arguments, prompt=[prompt], **image, **how)
        for (state, given, timestep), outputs in zip(seen.states, seen.outputs, strict=True):
            x = (given if given.shape[1:] == state.shape[1:] else state)[:1]
            at = (native(teacher, timestep) if kind not in REVERSED else timestep / 1000)
            got = teacher.predict(x, at, torch.tensor([row]), scale).output
            said = [out if family.call.added is None else out.squeeze(family.call.added) for out in outputs]
            said = [part * family.call.output for part in (said[0].chunk(2) if len(said) == 1 and scale != 1 else said)]
            both = [said[0]] if scale == 1 else [a + scale * (b - a) for a, b in (said, said[::-1])]
            assert min(float((got - wanted).abs().max()) for wanted in both) < 1e-4


def test_what_the_call_is_like_is_found_by_recording(loaded):
    kind, pipe, teacher = loaded
    family = teacher.family
    assert (family.call.output, family.time_offset) == ((-1.0, 1.0) if kind in REVERSED else (1.0, 0.0))
    assert family.call.ragged == RAGGED.get(kind, ())
    assert set(family.call.listed) == ({"x", "cap_feats"} if kind == "z_image" else set())
    assert family.call.added == (2 if kind == "z_image" else None)
    assert family.call.repeated == ({"encoder_hidden_states": 3} if kind == "animated" else {})
    assert family.call.lists == (("down_intrablock_additional_residuals",) if kind == "adapted" else ())
    assert family.call.each == (("img_shapes",) if kind == "qwen_image" else ())
    assert family.unguided == {"z_image": 0.0, "guided_by_embedding": 7.5}.get(kind, 1.0)
    again = Family.from_dict(json.loads(json.dumps(family.to_dict())))
    assert again.to_dict() == family.to_dict()
    adapter = Adapter.from_dict(json.loads(json.dumps(teacher.adapter.to_dict())))
    assert adapter.to_dict() == teacher.adapter.to_dict()


def test_a_text_is_the_same_beside_any_other(loaded):
    kind, pipe, teacher = loaded
    if kind not in RAGGED:
        return
    one = table_of(pipe, teacher.family, PROMPTS[:1]).tensors
    both = table_of(pipe, teacher.family, [*PROMPTS, "a small green tree on a road by two apples"]).tensors
    assert all(torch.equal(one[name][0], both[name][0]) for name in one)
    tokens, told = (both[name][: len(PROMPTS) + 1] for name in RAGGED[kind])
    lengths = told if told.ndim == 1 else told.sum(1)
    assert len(lengths.unique()) > 1 and lengths.max() <= tokens.shape[1]
    assert all(not row[n:].any() and row[n - 1].any() for row, n in zip(tokens, lengths.tolist(), strict=True))
    first = {name: value[:1] for name, value in both.items()}
    assert torch.allclose(pooled(first)[0], tokens[0, : lengths[0]].mean(0), atol=1e-6)


def test_samples_are_decoded_by_its_autoencoder_and_encoded_to_their_states(loaded):
    kind, pipe, teacher = loaded
    codec = Codec(pipe, teacher.family)
    states = torch.randn((2, *teacher.family.state), generator=torch.Generator().manual_seed(0))
    samples = codec.decode(states)
    frames = (3,) if kind == "animated" else ()
    size = {"lumina2": (32, 32), "kandinsky3": (16, 16)}.get(kind, (32, 32))    # they take their autoencoder to be deep
    assert codec.sample_shape == samples.shape[1:] == (*frames, 3, *size)
    assert codec.encode(samples).shape == states.shape
    if kind == "kandinsky3":    # told not to quantise
        with pytest.raises(SettingsError, match="called with more than its latents"):
            SampleDecoder(codec)
    else:
        assert torch.allclose(SampleDecoder(codec)(states), samples.clamp(-1, 1), atol=1e-4)


def test_decoded_samples_are_those_that_users_of_the_pipeline_see(loaded):
    kind, pipe, teacher = loaded
    images = teacher.family.images
    image = {} if images is None else images.of({name: picture(images.size, 0) for name in images.names}, 1)
    asked = {**FURTHER[kind].arguments, **image, "num_inference_steps": 2, "return_dict": False}
    states, seen = (pipe(**asked, prompt=[PROMPTS[0]], output_type=form, generator=torch.Generator().manual_seed(0))[0]
                    for form in ("latent", "np"))    # a list of its own for each: some pipelines write into it
    wanted = torch.from_numpy(seen).movedim(-1, -3) * 2 - 1
    assert torch.allclose(Codec(pipe, teacher.family).decode(states).clamp(-1, 1), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused_with_what_was_seen(kind, tmp_path):
    made, said = REFUSED[kind]
    made.save(tmp_path)
    with pytest.raises(SettingsError) as told:
        load_teacher(tmp_path, arguments=made.arguments)
    assert said in str(told.value)


def test_the_scale_of_no_guidance_leaves_a_pipeline_as_it_was():
    pipe = FURTHER["z_image"].build()
    pipe._guidance_scale = 3.0
    assert unguided_scale(pipe) == 0.0 and pipe._guidance_scale == 3.0

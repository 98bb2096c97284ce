"""States and samples: decoding is the pipeline's own, encoding its inverse up to the autoencoder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from fewstep.families.codec import Codec
from fewstep.families.recorded_family import record_family
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.teachers.pipeline_loading import load_pipeline
from fewstep.util import at_once
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@pytest.fixture(scope="module", params=list(KINDS))
def known(request, tmp_path_factory) -> tuple[str, Any, Codec]:
    """The whole pipeline, and a codec whose pipeline has neither denoiser nor encoders."""
    folder = tmp_path_factory.mktemp(request.param)
    pipe = KINDS[request.param].save(folder)
    family = record_family(pipe, KINDS[request.param].arguments)
    bare = load_pipeline(inspect_teacher(folder), without=[n for n in ENCODERS if hasattr(pipe, n)])
    return request.param, pipe, Codec(bare, family)


def whole_call(kind: str, pipe: Any, output: str) -> Any:
    asked = {"class_labels": [3, 7]} if KINDS[kind].conditions == "class_labels" else {"prompt": ["a red apple"] * 2}
    generators = [torch.Generator().manual_seed(k) for k in range(2)]
    return pipe(**KINDS[kind].arguments, **asked, num_inference_steps=2, generator=generators, output_type=output,
                return_dict=False)[0]  # fmt: skip


def test_decoding_is_the_pipelines_own(known):
    kind, pipe, codec = known
    if kind == "dit":
        seen = []
        decode = pipe.vae.decode
        pipe.vae.decode = lambda z: seen.append(z * pipe.vae.config.scaling_factor) or decode(z)
        wanted = torch.from_numpy(whole_call(kind, pipe, "np")).movedim(-1, -3) * 2 - 1
        del pipe.vae.decode
        states = seen[0]
    else:
        states = whole_call(kind, pipe, "latent")
        wanted = whole_call(kind, pipe, "pt")
        wanted = wanted if kind == "stable_audio" else wanted * 2 - 1
    got = codec.decode(states)
    assert got.shape == wanted.shape and got.shape[0] == 2
    assert torch.allclose(got, wanted, atol=1e-5)


def test_encoding_undoes_what_the_pipeline_does_to_a_state(known):
    _, _, codec = known
    states = torch.randn((2, *codec.family.state), generator=torch.Generator().manual_seed(0))
    latents = codec._latents(states)
    assert torch.allclose(codec.state_map.to_state(latents, codec.family.state), states, atol=1e-4)


def test_encoded_samples_are_states(known):
    _, pipe, codec = known
    samples = codec.decode(torch.randn((2, *codec.family.state), generator=torch.Generator().manual_seed(0)))
    states = codec.encode(samples)
    assert states.shape == (2, *codec.family.state) and bool(torch.isfinite(states).all())
    again = codec.encode(samples[1:])
    assert torch.allclose(again[0], states[1], atol=1e-4)


def test_threads_share_a_codec(tmp_path):
    pipe = KINDS["sd"].save(tmp_path)
    codec = Codec(pipe, load_teacher(tmp_path).family)
    states = torch.randn((16, 2, *codec.family.state), generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(codec.decode, states))
    assert all(torch.equal(one, codec.decode(some)) for one, some in zip(found, states, strict=True))


def test_samples_of_another_size_are_refused_by_both_shapes(tmp_path):
    pipe = KINDS["sd"].save(tmp_path)
    codec = Codec(pipe, load_teacher(tmp_path).family)
    with pytest.raises(SettingsError, match=r"\(3, 16, 16\) become latents of \(4, 8, 8\); its states.*\(4, 16, 16\)"):
        codec.encode(torch.zeros(1, 3, 16, 16))


def test_a_cpu_decodes_a_whole_batch_in_one_call_as_always(tmp_path, monkeypatch):
    """Results in people's stores were made so: a call of another number of states changes their last bits."""
    codec = Codec(KINDS["sd"].save(tmp_path), load_teacher(tmp_path).family)
    seen, decode = [], codec.autoencoder.decode
    monkeypatch.setattr(codec.autoencoder, "decode", lambda z, **how: seen.append(len(z)) or decode(z, **how))
    monkeypatch.setattr(at_once, "BYTES", 1)
    codec.decode(torch.zeros(7, *codec.family.state))
    assert seen == [7]


def test_how_many_are_decoded_at_once_is_a_matter_of_bytes():
    assert [at_once.at_once((3, side, side)) for side in (64, 512, 1024, 4096)] == [341, 5, 1, 1]

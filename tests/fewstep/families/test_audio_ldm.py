"""A kind of pipeline that no table names: AudioLDM gives its text as `class_labels` and has a vocoder behind its
autoencoder. What is recorded is a text's embedding, and samples are sound of one channel."""

from __future__ import annotations

import json
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from fewstep.families.codec import Codec, SampleDecoder
from fewstep.families.family import Family, Field
from fewstep.families.recorded_conditions import record_conditions, table_of
from fewstep.teachers import load_teacher
from fewstep.util.errors import SettingsError
from tests.fewstep.families import pipelines

LENGTH = {"audio_length_in_s": 0.016}


def roberta_tokenizer() -> Any:
    learnt = Tokenizer(models.BPE(unk_token="<unk>"))
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.train_from_iterator(pipelines.LINES * 4, trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
    state = json.loads(learnt.to_str())["model"]
    return transformers.RobertaTokenizer(vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]],
                                         model_max_length=20)  # fmt: skip


def audio_ldm() -> Any:
    """The pipeline, with random weights that are the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, sample_size=8, in_channels=4,
            out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=(8, 16),
            class_embed_type="simple_projection", projection_class_embeddings_input_dim=8,
            class_embeddings_concat=True)
        vae = diffusers.AutoencoderKL(
            block_out_channels=[8, 16], in_channels=1, out_channels=1, norm_num_groups=8, latent_channels=4,
            down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
        encoder = transformers.ClapTextModelWithProjection(transformers.ClapTextConfig(
            hidden_size=8, intermediate_size=37, num_attention_heads=1, num_hidden_layers=2, vocab_size=1000,
            projection_dim=8, pad_token_id=1, max_position_embeddings=64))
        vocoder = transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=16_000, upsample_initial_channel=16, upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]], normalize_before=False))
        made = diffusers.AudioLDMPipeline(unet=unet, scheduler=pipelines.ddim(), vae=vae, text_encoder=encoder,
                                          tokenizer=roberta_tokenizer(), vocoder=vocoder)  # fmt: skip
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return made


@pytest.fixture(scope="module")
def pipe() -> Any:
    return audio_ldm()


def test_a_text_is_no_class_and_sound_has_one_channel(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, arguments=LENGTH)
    family = teacher.family
    assert dict(family.fields) == {"class_labels": Field((8,), "float32")} and family.guidance == "joint"
    again = Family.from_dict(json.loads(json.dumps(family.to_dict())))
    assert again.call.constants["encoder_hidden_states"] is None        # asked for, and given as nothing
    rows = record_conditions(pipe, family, {"prompt": pipelines.LINES[:2]}, 2)["class_labels"]
    assert not torch.equal(rows[0], rows[1])
    teacher.take(table_of(pipe, family, pipelines.LINES[:2]))
    x = torch.randn((1, *family.state), generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    t = torch.full((2,), 500.0)
    with torch.no_grad():
        found = teacher.x0(x, t, torch.arange(2))
    assert torch.isfinite(found).all() and not torch.allclose(found[0], found[1])
    codec = Codec(pipe, family)
    assert (codec.sample_shape, codec.rate) == ((1, 256), 16_000.0)
    assert codec.decode(x).shape == (2, 1, 256)
    with pytest.raises(SettingsError, match="called with more than its latents"):    # the vocoder comes after it
        SampleDecoder(codec)

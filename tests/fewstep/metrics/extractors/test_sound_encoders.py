"""CLAP from local files: a small random one saved here hears what transformers' own does, at its rate."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fewstep.data.prompt import Prompt
from fewstep.data.prompts import PromptTable
from fewstep.metrics.extractors.extractor_loading import digest_of, load_named
from fewstep.metrics.extractors.media import seen_as
from fewstep.util.errors import DataDiffers, SettingsError

RATE = 8_000
AUDIO = {"window_size": 4, "num_mel_bins": 32, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
         "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16,
         "projection_dim": 12, "num_classes": 2, "enable_fusion": False}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 9,
        "max_position_embeddings": 10, "pad_token_id": 1, "projection_dim": 12}  # fmt: skip
HEARD = {"feature_size": 32, "sampling_rate": RATE, "hop_length": 80, "fft_window_size": 256, "max_length_s": 1,
         "frequency_min": 50, "frequency_max": 4_000, "truncation": "rand_trunc", "padding": "repeatpad"}  # fmt: skip


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    """The folder, the hashes, transformers' model and the tokenizer."""
    from transformers import ClapConfig, ClapModel

    made = tmp_path_factory.mktemp("extractors")
    (made / "clap").mkdir()
    torch.manual_seed(0)
    model = ClapModel(ClapConfig(audio_config=AUDIO, text_config=TEXT, projection_dim=12)).eval()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()},
              made / "clap" / "model.safetensors")  # fmt: skip
    config = {"audio_config": AUDIO, "text_config": TEXT, "projection_dim": 12}
    (made / "clap" / "config.json").write_text(json.dumps(config))
    (made / "clap" / "preprocessor_config.json").write_text(json.dumps(HEARD))
    words = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "?": 3, "dog": 4, "rain": 5}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>",
                                                         special_tokens=[("<s>", 0), ("</s>", 2)])  # fmt: skip
    words.save(str(made / "clap" / "tokenizer.json"))
    return made, {name: digest_of(made, name) for name in ("clap", "clap_tokenizer")}, model, words


def sounds(count: int, seconds: float = 0.5, rate: int = RATE) -> torch.Tensor:
    return torch.rand((count, 2, int(seconds * rate)), generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_sound_has_the_embedding_that_transformers_gives_it(clap):
    from transformers import ClapFeatureExtractor

    made, hashes, model, _ = clap
    (extractor,) = load_named(made, hashes)
    sound = sounds(3)
    heard = ClapFeatureExtractor(**HEARD)(list(sound.mean(1).double().numpy()), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        wanted = model.get_audio_features(**heard)
    wanted = getattr(wanted, "pooler_output", wanted)
    wanted = (wanted / wanted.norm(dim=1, keepdim=True)).double().numpy()
    assert np.allclose(extractor(sound), wanted, atol=1e-5)
    assert extractor.medium == "sound" and extractor.resized == "the first 1 s, channels averaged"
    long = sounds(2, 1.5)
    assert np.array_equal(extractor(long), extractor(long))
    assert np.allclose(extractor(long), extractor(long[..., :RATE]))


def test_texts_stand_beside_sounds(clap):
    made, hashes, model, words = clap
    (extractor,) = load_named(made, hashes)
    embedded = extractor.texts(PromptTable((Prompt("dog rain"), Prompt("rain"), Prompt("dog " * 30))))
    assert embedded.shape == (3, 12) and np.allclose(np.linalg.norm(embedded, axis=1), 1)
    with torch.no_grad():
        wanted = model.get_text_features(torch.tensor([words.encode("rain").ids]))
    wanted = getattr(wanted, "pooler_output", wanted)[0]
    assert np.allclose(embedded[1], (wanted / wanted.norm()).numpy(), atol=1e-5)
    assert load_named(made, {"clap": hashes["clap"]})[0].texts is None


def test_sound_of_another_rate_is_resampled_and_pictures_are_refused(clap):
    made, hashes, *_ = clap
    (extractor,) = load_named(made, {"clap": hashes["clap"]})
    of = {"medium": "sound", "by_spectrum": False}
    assert seen_as(extractor, shape=(2, RATE), rate=float(RATE), **of) is extractor
    twice = seen_as(extractor, shape=(2, 2 * RATE), rate=2.0 * RATE, **of)
    assert twice.seen == "resampled from 16000 to 8000 per second"
    time = torch.arange(RATE) / (2 * RATE)                  # a low tone, which both rates hold
    tone = torch.sin(2 * torch.pi * 300 * time).expand(1, 2, -1)
    assert np.allclose(twice(tone), extractor(tone[..., ::2].contiguous()), atol=0.02)
    assert not np.allclose(extractor(tone), extractor(tone[..., ::2].contiguous()), atol=0.02)
    with pytest.raises(SettingsError, match=r"evaluate\.extractors\.clap is made for sound, the models make images"):
        seen_as(extractor, "images", (3, 8, 8), 0.0, by_spectrum=False)


def test_one_that_hears_random_crops_is_refused(clap):
    made, hashes, *_ = clap
    config = json.loads((made / "clap" / "config.json").read_text())
    config["audio_config"]["enable_fusion"] = True
    (made / "clap" / "config.json").write_text(json.dumps(config))
    with pytest.raises((SettingsError, DataDiffers), match="fuses random crops"):
        load_named(made, {"clap": digest_of(made, "clap")})

"""Feature extractors from local files: small random networks saved here, the right errors, protocols, torchmetrics."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file
from torch import nn

from fewstep.data.prompt import Prompt
from fewstep.data.prompts import PromptTable
from fewstep.metrics.distances.frechet import frechet_distance
from fewstep.metrics.distances.moments import Moments
from fewstep.metrics.extractors.extractor_loading import digest_of, load_named, verify
from fewstep.metrics.extractors.inception import InceptionFID
from fewstep.metrics.metric_names import metric_name
from fewstep.util.errors import DataDiffers, SettingsError

DINOV2 = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
CLIP = {"vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
                          "patch_size": 16, "intermediate_size": 16}, "projection_dim": 12}  # fmt: skip


def put(folder, name: str, weights: dict, config: dict | None = None) -> str:
    """Saves an extractor's files where they are looked for; returns the hash."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name / "model.safetensors")
    if config is not None:
        (folder / name / "config.json").write_text(json.dumps(config))
    return digest_of(folder, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    made = tmp_path_factory.mktemp("extractors")
    torch.manual_seed(0)
    network = InceptionFID(stem=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.fill_(0.05)
    head = {"fc.weight": torch.zeros(1008, network.dimensions), "fc.bias": torch.zeros(1008)}  # the port's, not used
    found = {"inception": put(made, "inception", {**network.state_dict(), **head})}
    found["dinov2"] = put(made, "dinov2", Dinov2Model(Dinov2Config(**DINOV2)).state_dict(), DINOV2)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**CLIP["vision_config"], projection_dim=12)).state_dict()
    found["clip"] = put(made, "clip", {**tower, "text_model.x": torch.zeros(1), "logit_scale": torch.zeros(())}, CLIP)
    return made, found


def pictures(n: int, channels: int = 1) -> torch.Tensor:
    return torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_all_three_see_grey_and_colour_the_same_in_any_batch(folder):
    made, found = folder
    for extractor in load_named(made, found):
        images = pictures(6)
        features = extractor(images)
        assert features.shape == (6, extractor.dimensions) and features.dtype == np.float64
        assert np.isfinite(features).all() and features.std(axis=0).max() > 1e-6
        assert np.allclose(features, extractor(images.expand(-1, 3, -1, -1)))
        assert np.allclose(features, np.concatenate([extractor(part) for part in images.split(4)]), atol=1e-5)
        assert extractor.digest == found[extractor.name] and "x" in extractor.resized
    assert np.allclose(np.linalg.norm(features, axis=1), 1)  # CLIP's, of length 1


@pytest.fixture(scope="module")
def whole_clip(tmp_path_factory):
    """A tiny CLIP of both towers with a tokenizer of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel

    made = tmp_path_factory.mktemp("clip")
    words = Tokenizer(models.WordLevel({"<s>": 0, "<e>": 1, "?": 3, "red": 4, "blue": 5, "a": 6}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=[("<s>", 0), ("<e>", 1)])
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
            "vocab_size": 8, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=CLIP["vision_config"], projection_dim=12)).eval()
    found = {"clip": put(made, "clip", model.state_dict(), {**CLIP, "text_config": text})}
    words.save(str(made / "clip" / "tokenizer.json"))
    return made, found | {"clip_tokenizer": digest_of(made, "clip_tokenizer")}, model, words


def test_clip_keeps_its_text_tower_with_its_tokenizer(whole_clip):
    made, hashes, model, words = whole_clip
    (extractor,) = load_named(made, hashes)
    assert extractor.name == "clip" and extractor.digest == hashes["clip"]
    texts = ("a red", "blue", "a a a a a a a a a a red")
    embedded = extractor.texts(PromptTable(tuple(Prompt(text) for text in texts)))
    assert embedded.shape == (3, 12) and np.allclose(np.linalg.norm(embedded, axis=1), 1)
    for text, row in zip(texts[:2], embedded, strict=False):
        ids = torch.tensor([words.encode(text).ids])
        with torch.no_grad():
            wanted = model.text_projection(model.text_model(ids).pooler_output)[0]
        assert np.allclose(row, (wanted / wanted.norm()).numpy(), atol=1e-5)
    plain = load_named(made, {"clip": hashes["clip"]})[0]
    assert plain.texts is None and np.array_equal(plain(pictures(3)), extractor(pictures(3)))


def test_clips_tokenizer_is_one_more_hash(whole_clip, folder):
    made, hashes, *_ = whole_clip
    with pytest.raises(SettingsError, match="no evaluate.extractors.clip beside it"):
        load_named(made, {"clip_tokenizer": hashes["clip_tokenizer"]})
    with pytest.raises(SettingsError, match="the hash of .* expected"):
        verify(made, {"clip_tokenizer": "0" * 64})
    with pytest.raises(SettingsError, match="clip/tokenizer.json is missing") as missing:
        verify(folder[0], {"clip_tokenizer": "0" * 64})
    assert "the tokenizer of that CLIP model" in missing.value.hint


def test_the_full_inception_has_the_ports_parameters():
    with torch.device("meta"):
        network = InceptionFID()
    assert network.dimensions == 2048
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    learned = ("conv.weight", "bn.weight", "bn.bias")
    assert sum(np.prod(shape) for name, shape in shapes.items() if name.endswith(learned)) == 21_785_568  # without head
    assert shapes["Mixed_6b.branch7x7dbl_2.conv.weight"] == (128, 128, 7, 1)
    assert shapes["Mixed_7c.branch_pool.bn.running_mean"] == (192,)


def test_missing_and_other_files_are_refused_with_what_to_do(folder, tmp_path):
    made, found = folder
    with pytest.raises(SettingsError, match="inception/model.safetensors is missing") as missing:
        verify(tmp_path, {"inception": "0" * 64})
    assert "docs/extractors.md" in missing.value.hint and "nothing is downloaded" in missing.value.hint
    with pytest.raises(SettingsError, match=f"clip is {found['clip']}, expected {'1' * 64}"):
        load_named(made, {"clip": "1" * 64})
    with pytest.raises(SettingsError, match="unknown extractor 'vgg'"):
        verify(made, {"vgg": "0" * 64})
    wrong = put(tmp_path, "inception", {"Conv2d_1a_3x3.conv.weight": torch.zeros(4, 3, 3, 3)})
    with pytest.raises(DataDiffers, match="do not fit what inception is"):
        load_named(tmp_path, {"inception": wrong})


def test_torchmetrics_and_scipy_with_our_features_agree_to_four_digits(folder):
    from torchmetrics.image.fid import FrechetInceptionDistance

    made, found = folder
    (extractor,) = load_named(made, {"dinov2": found["dinov2"]})

    class Module(nn.Module):
        num_features = extractor.dimensions

        def forward(self, images):
            return torch.from_numpy(extractor(images))

    a, b = pictures(240), (pictures(200) * 0.7 + 0.1).clamp(-1, 1)
    theirs = FrechetInceptionDistance(feature=Module(), normalize=False).set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    x, y = (Moments.of(extractor(images)) for images in (a, b))
    ours = frechet_distance(x, y)
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)
    root = np.real(scipy.linalg.sqrtm(x.covariance @ y.covariance))
    gap = np.square(x.mean - y.mean).sum() + np.trace(x.covariance + y.covariance - 2 * root)
    assert ours == pytest.approx(float(gap), rel=1e-4)


def test_only_inceptions_distance_is_called_fid():
    assert metric_name("fd", "inception") == "FID" and metric_name("fd_infinite", "inception") == "FID∞"
    assert metric_name("fd", "classifier-16") == "FD-classifier-16" and metric_name("fd", "dinov2") == "FD-dinov2"
    assert metric_name("cmmd", "clip") == "CMMD" and metric_name("mmd", "dinov2") == "MMD"

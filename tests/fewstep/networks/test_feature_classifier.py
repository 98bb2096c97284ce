"""The classifier learns real digits, repeats itself bit for bit and keeps to its file format."""

import pytest
import torch
from sklearn.datasets import load_digits

from fewstep.metrics.extractors.extractor import Extractor
from fewstep.networks.feature_classifier import accuracy, fit_components, train_classifier
from fewstep.networks.feature_files import load_features, save_features
from fewstep.util.device import device_of
from fewstep.util.errors import DataDiffers, SettingsError
from tests.fake_device import FakeCuda


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.from_numpy(data.target)[order]


@pytest.fixture(scope="module")
def model(digits):
    return train_classifier(digits[0][:360], digits[1][:360], 10, seed=0, steps=250)


def test_it_recognises_digits_it_has_not_seen(model, digits):
    assert accuracy(model, digits[0][360:], digits[1][360:]) > 0.92


def test_features_are_few_standardised_and_independent_of_the_batch(model, digits):
    images = digits[0][:360]
    features = model.features(images)
    assert features.shape == (360, 16)
    assert features.mean(0).abs().max() < 1e-4
    assert features.var(0).mean() == pytest.approx(1, abs=1e-4)
    covariance = features.T.cov()
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    alone = torch.cat([model.features(one) for one in images[:20].split(1)])
    assert torch.allclose(alone, features[:20], atol=1e-4)


def test_training_repeats_bit_for_bit_and_leaves_the_global_generator_alone(digits):
    before = torch.get_rng_state()
    first, second, other = (
        train_classifier(digits[0][:100], digits[1][:100], 10, seed=s, steps=5).state_dict() for s in (3, 3, 4)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], other[k]) for k in first)


def test_saved_and_loaded_it_is_the_same(model, digits, tmp_path):
    save_features(model, tmp_path)
    loaded = load_features(tmp_path)
    assert torch.equal(loaded.features(digits[0][:10]), model.features(digits[0][:10]))
    assert torch.equal(loaded(digits[0][:10]), model(digits[0][:10]))


def test_components_of_images_without_classes(digits, tmp_path):
    model = fit_components(digits[0][:300], 5)
    features = model.features(digits[0][:300])
    assert features.shape == (300, 5) and features.mean(0).abs().max() < 1e-4
    covariance = features.T.cov()
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    assert (covariance.diag().diff() <= 0).all()
    save_features(model, tmp_path)
    assert torch.equal(load_features(tmp_path).features(digits[0][:9]), model.features(digits[0][:9]))
    with pytest.raises(SettingsError, match="more than 16"):
        fit_components(digits[0][:16])


def test_other_sizes_and_channels():
    images = torch.rand(40, 3, 20, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = train_classifier(images, torch.arange(40) % 4, 4, seed=0, steps=2, features=6, width=8)
    assert model.features(images).shape == (40, 6) and model(images).shape == (40, 4)


def test_bad_input_is_refused(model, tmp_path):
    images = torch.zeros(4, 1, 8, 8)
    with pytest.raises(SettingsError, match="one label"):
        train_classifier(images, torch.tensor([0, 1, 2, 10]), 10, seed=0)
    with pytest.raises(SettingsError, match="16 features"):
        train_classifier(images, torch.zeros(4, dtype=torch.long), 10, seed=0, features=17)
    with pytest.raises(SettingsError, match="no features here"):
        load_features(tmp_path)
    save_features(model, tmp_path)
    described = tmp_path / "features.json"
    described.write_text(described.read_text().replace('"features": 16', '"features": 8'))
    with pytest.raises(DataDiffers, match="do not fit"):
        load_features(tmp_path)


def test_it_is_trained_and_asked_on_the_gpu(digits, monkeypatch):
    images, labels = digits[0][:64], digits[1][:64]
    monkeypatch.setattr(torch.Tensor, "backward", lambda _loss: None)      # a PyTorch without CUDA aborts there
    monkeypatch.setattr(torch, "isfinite", lambda values: torch.ones(values.shape, dtype=torch.bool))
    with FakeCuda() as gpu, torch.no_grad():
        model = train_classifier(images, labels, 10, seed=0, steps=2, features=4, width=8, device="cuda")
        share, seen = accuracy(model, images, labels), Extractor(model, "classifier-4", "", 4, 10)
        assert seen.classify(images).shape == (64,) and seen(images).shape == (64, 4)
    assert device_of(model).type == "cuda" and gpu.moved and 0 <= share <= 1

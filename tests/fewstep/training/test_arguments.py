"""What distill() cannot use is refused before any work, by a line that says what it can use."""

import numpy as np
import pytest
import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import VariancePreserving
from fewstep.networks.unet_mlp import new_unet
from fewstep.teachers import GaussianMixture
from fewstep.training import TensorData, api, distill
from fewstep.util.errors import SettingsError
from tests.fewstep.training.small import teacher

X, Y = torch.zeros(6, 1, 8, 8), torch.arange(6) % 3


class Source:
    """A data source that keeps to the protocol and tells nothing more."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor | None = None):
        self.batch = lambda seed, position, size: (x[:size], None if y is None else y[:size])


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Nothing may be begun."""
    monkeypatch.setattr(api, "Distillation", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images: expected 1 or more training samples, got 0"),
        ({"images": -5.0}, "images: .* got -5"),
        ({"images": float("nan")}, "images"),
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": "meta"}, "device 'meta' cannot be used here"),
        ({"data": X.numpy()}, "expected a tensor .* got ndarray"),
        ({"data": [X, Y]}, "expected a tensor .* got list"),
        ({"data": (X,)}, "expected a tensor .* got a tuple of 1"),
        ({"data": (X.numpy(), Y)}, "samples and labels, got ndarray and Tensor"),
        ({"data": (X, np.zeros(6))}, "samples and labels, got Tensor and ndarray"),
        ({"data": torch.zeros(6)}, r"expected samples \(N, ...\), got shape \(6,\)"),
        ({"data": X[..., :4]}, r"samples have shape \(1, 8, 4\), the teacher's have \(1, 8, 8\)"),
        ({"data": Source(X[:, :, 0])}, r"samples have shape \(1, 8\), the teacher's have \(1, 8, 8\)"),
        ({"data": TensorData(X[:, 0])}, r"samples have shape \(8, 8\), the teacher's"),
        ({"data": (X, Y[:5])}, r"6 samples need labels \(6,\), got shape \(5,\)"),
        ({"data": (X, Y[:, None])}, r"need labels \(6,\), got shape \(6, 1\)"),
        ({"data": (X, Y.float())}, "labels must be integers, got torch.float32"),
        ({"data": (X, Y > 0)}, "labels must be integers, got torch.bool"),
        ({"data": (X, Y + 2)}, "data: labels that the teacher does not take: .* or 3 for no class; got label 4"),
        ({"data": (X, Y - 1)}, "data: .* 0 … 2 or 3 for no class; got label -1"),
        ({"teacher": "teachers/digits"}, "teacher: expected a Denoiser, got str"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, message):
    given = {"teacher": teacher(), "data": X, "device": "cpu", **arguments}
    with pytest.raises(SettingsError, match=message):
        distill("ect", **given)


def test_labels_for_a_teacher_without_classes_or_null_class_are_refused():
    without = Denoiser(new_unet(8, 1, 0, (8,)), VariancePreserving.cosine(), "v_prediction", (1, 8, 8))
    with pytest.raises(SettingsError, match="there are labels, but the teacher has no classes"):
        distill("ect", without, data=(X, Y), device="cpu")
    network = new_unet(8, 1, 3, (8,), null_class=False)
    strict = Denoiser(network, VariancePreserving.cosine(), "v_prediction", (1, 8, 8), 3)
    with pytest.raises(SettingsError, match="0 … 2; got label 3"):
        distill("ect", strict, data=(X, Y + 1), device="cpu")


def test_what_can_be_used_is_not_refused(monkeypatch):
    class Begun(Exception):
        pass

    def begin(*_, **__):
        raise Begun

    monkeypatch.setattr(api, "Distillation", begin)
    mixture = GaussianMixture(torch.eye(2), 0.1)
    for own, data in [(teacher(), X), (teacher(), (X, Y + 1)), (teacher(), (X, Y.int())), (teacher(), (X, None)),
                      (teacher(), Source(X, Y)), (mixture, None), (mixture, X[:, 0, 0, :2])]:  # fmt: skip
        with pytest.raises(Begun):
            distill("ect", own, data=data, images=1, device="cpu")


def test_without_a_teacher_what_cannot_tell_the_network_is_refused():
    for recipe, data, message in [
        ("ect", X, "recipe ect needs a teacher"),
        ("ct", None, "recipe ct needs real data"),
        ("ct", X[:, 0], r"no network is known for samples of shape \(8, 8\)"),
        ("ct", X[..., :4], r"no network is known for samples of shape \(1, 8, 4\)"),
        ("ct", X[..., :7, :7], "7 pixels cannot be halved"),
        ("ct", Source(X, Y), "how many classes is not known"),
        ("ct", (X, Y - 1), "labels start at 0, got -1"),
    ]:
        with pytest.raises(SettingsError, match=message):
            distill(recipe, None, data=data, device="cpu")

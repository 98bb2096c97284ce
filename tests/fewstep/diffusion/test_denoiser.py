"""The denoiser around a real UNet: guidance, conditions, features, counting."""

import copy

import pytest
import torch

from fewstep.diffusion.adapters import Adapter, Angle, Preconditioned, Timestep
from fewstep.diffusion.conditions import TensorTable
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.networks.block_features import predict_with_features
from fewstep.networks.initial_weights import build
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.util.errors import SettingsError

VP = VariancePreserving.cosine()


def unet(classes: int = 3, null: bool = True, seed: int = 0, groups: int = 0):
    return new_unet(8, 1, classes, (8, 16), 1, null, torch.Generator().manual_seed(seed), groups)


def denoiser(**changes) -> Denoiser:
    fields = {"process": VP, "prediction_type": "v_prediction", "num_classes": 3, "null_class": 3} | changes
    return Denoiser(unet(), sample_shape=(1, 8, 8), **fields)


def batch(n: int = 5):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 1, 8, 8, generator=g), torch.rand(n, generator=g), torch.arange(n) % 3


def test_the_network_sees_stock_timesteps_and_labels():
    d, (x, _, labels) = denoiser(), batch()
    with torch.no_grad():
        for step in (0, 1, 500, 999):
            raw = d.network(x, step, class_labels=labels).sample
            t = torch.tensor(step / 999, dtype=torch.float32)  # a time that passed through float32
            assert torch.equal(d.predict(x, t, labels).output, raw)
            assert torch.equal(d.predict(x, step / 999, labels).output, raw)


def test_any_condition_is_one_that_may_be_asked_for_at_the_denoisers_size():
    here = torch.device("cpu")
    assert denoiser(num_classes=0, null_class=None).any_condition(2, here) is None
    assert denoiser().any_condition(2, here).tolist() == [0, 0]
    sizes, trained = torch.tensor([0, 1, 1]), torch.tensor([0, 2])
    found = denoiser(num_classes=0, null_class=None).take(TensorTable({}, torch.arange(3), trained, sizes))
    assert found.any_condition(1, here).tolist() == [0]
    found.size = 1
    assert found.any_condition(2, here).tolist() == [2, 2]


def test_a_time_per_sample_equals_one_call_each():
    d, (x, t, labels) = denoiser(), batch()
    with torch.no_grad():
        together = d.predict(x, t, labels)
        for row in range(5):
            alone = d.predict(x[row : row + 1], float(t[row]), labels[row : row + 1])
            assert torch.allclose(together.x0[row], alone.x0[0], atol=1e-5)
            assert torch.allclose(together.velocity[row], alone.velocity[0], atol=1e-3)


def test_guidance_mixes_the_null_class_in_one_call_of_twice_the_batch():
    d, (x, t, labels) = denoiser(), batch()
    sizes = []
    d.network.register_forward_pre_hook(lambda _m, _a, given: sizes.append(len(given["sample"])), with_kwargs=True)
    with torch.no_grad():
        u, c = d.x0(x, t), d.x0(x, t, labels)
        guided = d.x0(x, t, labels, 3.0)
        assert torch.allclose(guided, u + 3.0 * (c - u), atol=1e-4)
        scales = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
        assert torch.allclose(d.x0(x, t, labels, scales)[3], guided[3], atol=1e-5)
    assert sizes == [5, 5, 10, 10]
    assert d.evaluations == 6


def test_each_condition_has_a_guidance_scale_of_its_own_in_one_call():
    """Classes 0 and 1 make the group 4; class 2 lies in none, so that it has one condition, the first."""
    d, (x, t, labels) = denoiser(groups=[(0, 1)]), batch()
    d.network = unet(groups=1)
    sizes = []
    d.network.register_forward_pre_hook(lambda _m, _a, given: sizes.append(len(given["sample"])), with_kwargs=True)
    with torch.no_grad():
        u, c = d.x0(x, t), d.x0(x, t, labels)
        g = d.x0(x, t, torch.tensor([4, 4, 2, 4, 4]))
        guided = d.x0(x, t, labels, (1.5, 3.0))
        assert torch.allclose(guided, u + 1.5 * (g - u) + 3.0 * (c - g), atol=1e-4)
        assert torch.allclose(d.x0(x, t, labels, [2.0, 2.0]), d.x0(x, t, labels, 2.0), atol=1e-4)
        assert torch.equal(d.x0(x, t, labels, (1.0, 1.0)), c)
    assert sizes == [5, 5, 5, 15, 15, 10, 5]
    assert d.evaluations == 12


def test_scales_that_do_not_fit_the_labels_are_refused():
    x, t, labels = batch()
    with pytest.raises(SettingsError, match="guidance 1.5, 3 is 2 scales; labels of this network have 1 condition,"):
        denoiser().predict(x, t, labels, (1.5, 3.0))
    with pytest.raises(SettingsError, match="guidance 1, 2, 3 is 3 scales; labels of this network have 2 conditions"):
        denoiser(groups=[(0, 1)]).predict(x, t, labels, (1.0, 2.0, 3.0))
    with pytest.raises(SettingsError, match="or 4 … 4 for groups of classes; got label 5"):
        denoiser(groups=[(0, 1)]).predict(x, t, torch.tensor([0, 1, 3, 4, 5]))


def test_conditions_that_do_not_fit_are_refused():
    x, t, labels = batch()
    with pytest.raises(SettingsError, match="needs a condition: a class of 0 … 2"):
        denoiser(null_class=None).predict(x, t)
    with pytest.raises(SettingsError, match="null condition"):
        denoiser(null_class=None).predict(x, t, labels, 2.0)
    with pytest.raises(SettingsError, match="guidance needs a condition"):
        denoiser().predict(x, t, None, 2.0)
    allowed = r"the condition must be an integer tensor \(5,\) of class labels, 0 … 2 or 3 for no class; got "
    for odd, what in ((labels[:4], r"shape \(4,\)"), (labels + 3, "label 4"), (labels - 1, "label -1"),
                      (labels + 0.7, "torch.float32"), (labels > 0, "torch.bool"), ([0] * 5, "a list")):  # fmt: skip
        with pytest.raises(SettingsError, match=allowed + what):
            denoiser().predict(x, t, odd)
    assert denoiser().predict(x, t, labels.to(torch.uint8)).x0.shape == x.shape
    plain = Denoiser(new_unet(8, 1, 0, (8, 16)), VP, "epsilon", (1, 8, 8))
    assert plain.x0(x, t).shape == x.shape
    with pytest.raises(SettingsError, match="unconditional"):
        plain.predict(x, t, labels)
    with pytest.raises(SettingsError, match="unknown prediction type"):
        denoiser(prediction_type="eps")


def test_features_come_with_the_prediction_and_carry_gradients():
    d, (x, t, labels) = denoiser(), batch()
    x = x.requires_grad_()
    prediction, (middle,) = predict_with_features(d, x, t, labels)
    assert torch.equal(prediction.output, d.predict(x, t, labels).output)
    assert middle.shape == (5, 16, 4, 4)
    middle.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert not d.network.mid_block._forward_hooks


@pytest.mark.parametrize("process, adapter, kind", [
    (VP, Timestep(999), "epsilon"),
    (Flow(), Timestep(1000), "flow_prediction"),
    (EDM(), Preconditioned("edm"), "sample"),
    (EDM(), Preconditioned("consistency"), "sample"),
])  # fmt: skip
def test_a_description_brings_the_same_denoiser_back(process, adapter, kind):
    d = Denoiser(unet(), process, kind, (1, 8, 8), 3, 3, adapter)
    x, _, labels = batch()
    again = Denoiser.described(d.describe(), copy.deepcopy(d.network))
    t = process.time(torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0]))
    with torch.no_grad():
        assert torch.equal(again.x0(x, t, labels), d.x0(x, t, labels))
    assert again.describe() == d.describe()


def test_preconditioning_has_its_limits():
    """EDM, arXiv 2206.00364, section 5: unit-variance input; consistency models: the identity at sigma_min."""
    d = Denoiser(unet(), EDM(), "sample", (1, 8, 8), 3, 3, Preconditioned("consistency"))
    x, _, labels = batch()
    with torch.no_grad():
        assert torch.allclose(d.x0(x, 0.002, labels), x, atol=1e-6)
    c_in = Preconditioned("edm").coefficients(torch.tensor([80.0], dtype=torch.float64))[0]
    assert c_in.item() == pytest.approx(1 / (80**2 + 0.25) ** 0.5)


def test_our_own_network_serves_every_process():
    network = build(lambda: ResidualMLP((2,), 4, 32, 2))
    x, labels = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    snr = torch.tensor([-30.0, -3.0, 0.0, 1.0, 5.0, 9.0], dtype=torch.float64)
    found = []
    for process in (VP, Flow(), EDM()):
        d = Denoiser(network, process, "v_prediction", (2,), 3, 3, Angle())
        t = process.time(snr.clamp(-19, 13))
        state, _ = Flow().convert(x, Flow().time(process.log_snr(t)), process)
        with torch.no_grad():
            found.append(d.x0(state, t, labels))
    assert torch.allclose(found[0], found[1], atol=1e-4) and torch.allclose(found[0], found[2], atol=1e-4)
    end = Denoiser(network, Flow(), "v_prediction", (2,), 3, 3, Angle())
    assert torch.isfinite(end.x0(x, 1.0, labels)).all() and torch.isfinite(end.x0(x, 0.0, labels)).all()


def test_half_precision_networks_answer_in_the_callers_dtype():
    d = denoiser()
    d.network.to(torch.bfloat16)
    x, t, labels = batch()
    with torch.no_grad():
        assert d.x0(x, t, labels).dtype == torch.float32


def test_adapters_are_described_by_name():
    for adapter in (Timestep(999.0), Preconditioned("edm", 0.6, 0.01, -1.0), Angle()):
        assert Adapter.from_dict(adapter.to_dict()) == adapter
    with pytest.raises(SettingsError, match="unknown network adapter 'x'"):
        Adapter.from_dict({"kind": "x"})
    with pytest.raises(SettingsError, match="scal"):
        Adapter.from_dict({"kind": "timestep", "scal": 1})
    with pytest.raises(SettingsError, match="preconditioning"):
        Preconditioned("other")

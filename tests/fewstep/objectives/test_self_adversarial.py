"""Self-adversarial flows against closed forms, and negative times as an input of both networks."""

import copy

import pytest
import torch

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs
from fewstep.diffusion.processes import Flow, like
from fewstep.networks.extra_inputs import add_inputs
from fewstep.networks.folding import fold_additions
from fewstep.networks.initial_weights import build as initialised
from fewstep.networks.unet_mlp import ResidualMLP, new_unet
from fewstep.objectives.registry import build
from fewstep.objectives.self_adversarial.settings import SelfAdversarialSettings
from fewstep.util.errors import SettingsError
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    Disturbed,
    S,
    gradients,
    make_step,
    mean_and_error,
    posterior_mean,
    zero,
)


class Twin(Denoiser):
    """Samples N(mean, S^2) from noise in one step; knows its own flow at negative times and the data's at positive."""

    def __init__(self, process, mean=MU):
        super().__init__(Disturbed(), process, "sample", (2,))
        self.mean = mean

    def predict(self, x, t, condition=None, guidance=1.0, *, second=None, scale=None, negative=False):
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        alpha, sigma = like(self.process.alpha(t), x), like(self.process.sigma(t), x)
        if bool((t == self.process.t_max).all()):
            return self._prediction(x, t, self.network(self.mean + S * x / sigma))
        return self._prediction(x, t, posterior_mean(x, alpha, sigma, self.mean if negative else MU))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_at_equal_distributions_nothing_pulls_and_the_own_flow_has_the_known_error(process):
    networks = {"student": Twin(process)}
    term = build(SelfAdversarialSettings(term="self_adversarial", delay=0.0))
    mean, _ = gradients(term, networks, steps=2)
    assert mean.abs().max() < 1e-6
    values = []
    for k in range(16):
        step = make_step(networks, n=1024, k=k)
        statistics = term.loss(step)[1]
        _, t, _ = step.shared.noised("fake", term.settings.times)
        a, s = process.alpha(t.double()), process.sigma(t.double())
        values.append(statistics["own"] - ((a + s) ** 2 * S**2 / (a**2 * S**2 + s**2)).mean())
    zero(*mean_and_error(values))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_samples_beside_the_data_are_pulled_to_them(process):
    for mean in (MU + 0.4, MU - 0.4):
        own = Twin(process, mean)
        term = build(SelfAdversarialSettings(term="self_adversarial"))
        step = make_step({"student": own}, n=512)
        loss, statistics = term.loss(step)
        assert loss == statistics["own"]
        step.progress = 0.6
        term.loss(step)[0].backward()
        assert ((own.network.shift.grad > 0) == (mean > MU)).all()


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_negative_times_start_without_effect_differ_once_trained_and_leave_the_exported_network(name):
    network = initialised(lambda: ResidualMLP((2,), 4)) if name == "mlp" else new_unet(8, 1, 3)
    shape = (2,) if name == "mlp" else (1, 8, 8)
    adapter = Angle() if name == "mlp" else None
    own = Denoiser(network, Flow(), "v_prediction", shape, 3, 3, adapter)
    x, t = torch.randn(2, *shape), torch.tensor([0.3, 0.6])
    before = own.predict(x, t).x0
    with pytest.raises(SettingsError, match="negative_time"):
        own.predict(x, t, negative=True)
    add_inputs(own, ExtraInputs(second_time=True, negative=True))
    assert torch.equal(own.predict(x, t, negative=True).x0, before) and torch.equal(own.predict(x, t).x0, before)
    (network.embed_label if name == "mlp" else network.class_embedding).negative.weight.data.fill_(0.3)
    assert torch.equal(own.predict(x, t).x0, before) and not torch.equal(own.predict(x, t, negative=True).x0, before)
    again = Denoiser.described(own.describe(), copy.deepcopy(network))
    assert again.inputs.negative and torch.equal(again.predict(x, t).x0, before)
    folded = fold_additions(own)
    assert not folded.inputs
    torch.testing.assert_close(folded.predict(x, t).x0, before)

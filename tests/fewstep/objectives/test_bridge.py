"""Bridges with a Gaussian endpoint, and inverse bridge matching between two Gaussians in closed form."""

import pytest
import torch

from fewstep.diffusion.processes import BrownianBridge, Flow, Process
from fewstep.objectives.distribution_matching.score_identity import score_identity
from fewstep.teachers import GaussianMixture
from fewstep.util.errors import SettingsError
from tests.fewstep.objectives.gaussian import MU, S, gaussian, mean_and_error, posterior_mean, zero

BRIDGES = [BrownianBridge(), BrownianBridge(end=2.0, noise=0.5), BrownianBridge(end=0.5, noise=0.0)]
T = torch.tensor([0.01, 0.3, 0.7, 0.99], dtype=torch.float64)


@pytest.mark.parametrize("process", BRIDGES, ids=str)
def test_a_bridge_is_a_process(process):
    torch.testing.assert_close(process.time(process.log_snr(T)), T)
    assert (process.log_snr(T).diff() < 0).all()
    small = 1e-6
    slope = (process.sigma(T + small) - process.sigma(T - small)) / (2 * small)
    torch.testing.assert_close(process.derivatives(T)[1], slope, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(process.log_snr(T), 2 * (process.alpha(T) / process.sigma(T)).log())
    assert Process.from_dict(process.to_dict()) == process
    noise = torch.randn(4, 2)
    torch.testing.assert_close(process.initial(noise), process.end * noise)
    assert process.grid(2).tolist() == [1.0, 0.5]
    with pytest.raises(SettingsError):
        BrownianBridge(end=0.0)


def test_its_states_are_those_of_bridges_between_the_endpoints_and_a_flow_is_one():
    process, draw = BrownianBridge(end=1.5, noise=0.8), torch.Generator().manual_seed(0)
    x0, x1, n = (torch.randn(200_000, generator=draw, dtype=torch.float64) for _ in range(3))
    t = 0.4
    state = (1 - t) * x0 + t * 1.5 * x1 + 0.8 * (t * (1 - t)) ** 0.5 * n
    expected = (1 - t) ** 2 + float(process.sigma(torch.tensor(t).double())) ** 2
    assert abs(float(state.var()) / expected - 1) < 0.01
    same = BrownianBridge(end=1.0, noise=0.0)
    torch.testing.assert_close(same.log_snr(T), Flow().log_snr(T))


def test_a_teacher_with_gaussian_endpoints_carries_one_to_the_other():
    process = BrownianBridge(end=2.0, noise=1.0)
    teacher = GaussianMixture([[MU, MU]], [S], process=process)
    noise = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = torch.ones(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
    torch.testing.assert_close(teacher.flow(process.initial(noise), *ends), MU + S * noise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("process", BRIDGES[:2], ids=str)
def test_the_inverse_objective_is_the_score_identity_and_the_known_distance_of_drifts(process):
    """Students N(m, S^2), teacher N(MU, S^2): (sigma^2 (m - MU) / (alpha^2 S^2 + sigma^2))^2."""
    m, t = MU + 0.6, torch.tensor(0.6, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    found = []
    for k in range(32):
        draw = torch.Generator().manual_seed(k)
        x, noise = (torch.randn(4096, 2, generator=draw, dtype=torch.float64) for _ in range(2))
        x = m + S * x
        x_t = process.add_noise(x, noise, t)
        teacher, own = gaussian(process).predict(x_t, t).x0, posterior_mean(x_t, alpha, sigma, m)
        direct = (teacher - x).square().mean(1) - (own - x).square().mean(1)
        torch.testing.assert_close(2 * score_identity(x, teacher, own, 0.5), direct)
        found.append(direct.mean() - (sigma**2 * (m - MU) / (alpha**2 * S**2 + sigma**2)) ** 2)
    zero(*mean_and_error(found))

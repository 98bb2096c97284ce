"""Noise processes: what x_t is, and that log-SNR carries a state from one to another."""

import copy
import math

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from torch.overrides import TorchFunctionMode

from fewstep.diffusion.processes import EDM, Flow, Process, VariancePreserving
from fewstep.util.errors import SettingsError

COSINE, LINEAR = VariancePreserving.cosine(), VariancePreserving.scheduled("linear")
PROCESSES = [COSINE, LINEAR, Flow(), EDM(), EDM(0.01, 50.0, 5.0)]


def times(process: Process, n: int = 41) -> torch.Tensor:
    low, high = process.t_min, process.t_max
    return torch.linspace(low, high, n, dtype=torch.float64)[1:-1]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.kind)
class TestEveryProcess:
    def test_log_snr_is_what_alpha_and_sigma_say(self, process):
        t = times(process)
        assert torch.allclose(process.log_snr(t), 2 * (process.alpha(t) / process.sigma(t)).log(), atol=1e-9)
        assert (process.log_snr(t).diff() < 0).all()

    def test_time_inverts_log_snr(self, process):
        t = times(process)
        assert torch.allclose(process.time(process.log_snr(t)), t, atol=1e-10)

    def test_derivatives_are_the_slopes(self, process):
        t, h = times(process) * 0.9973 + 1e-4, 1e-7
        for exact, f in zip(process.derivatives(t), (process.alpha, process.sigma), strict=True):
            assert torch.allclose(exact, (f(t + h) - f(t - h)) / (2 * h), atol=1e-5)

    def test_indices_and_times_are_inverse(self, process):
        index = torch.tensor([0.0, 1.5, 700.25, 999.0], dtype=torch.float64)
        assert torch.allclose(process.index_at(process.time_at(index)), index, atol=1e-6)

    def test_a_chain_of_any_length_has_the_same_log_snr(self, process):
        for n in (1000, 137):
            product = process.discretise(n)
            assert product.shape == (n,) and (product.diff() < 0).all() and product.min() > 0 and product.max() < 1
            inner = slice(1, n - 1)
            t = process.time_at(torch.arange(n), n)[inner]
            snr = product.log()[inner] - (-product).log1p()[inner]
            assert torch.allclose(snr, process.log_snr(t), atol=1e-5)

    def test_description_survives_json(self, process):
        import json

        again = Process.from_dict(json.loads(json.dumps(process.to_dict())))
        assert again == process and hash(again) == hash(process)

    def test_grids_start_at_noise_and_decrease(self, process):
        for steps in (1, 2, 3, 7, 50):
            grid = process.grid(steps)
            assert grid.shape == (steps,) and math.isclose(grid[0], process.t_max) and (grid.diff() < 0).all()
            assert grid[-1] >= process.t_min
        start = float(process.grid(4)[1])
        assert math.isclose(process.grid(3, start)[0], start, rel_tol=1e-9)
        with pytest.raises(SettingsError):
            process.grid(0)

    def test_add_noise_takes_one_time_or_one_per_sample(self, process):
        x0, noise = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        t = times(process)[[5, 10, 30]]
        together = process.add_noise(x0, noise, t)
        for row in range(3):
            alone = process.add_noise(x0[row : row + 1], noise[row : row + 1], t[row])
            assert torch.equal(together[row], alone[0])
            assert torch.allclose(alone[0], process.alpha(t[row]) * x0[row] + process.sigma(t[row]) * noise[row])
        assert together.dtype == x0.dtype

    @pytest.mark.parametrize("other", PROCESSES, ids=lambda process: process.kind)
    def test_a_state_converts_at_equal_log_snr(self, process, other):
        x0, noise = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        snr = torch.tensor([-7.0, -3.0, 0.0, 2.0, 5.0], dtype=torch.float64)
        t = process.time(snr)
        x, there = process.convert(process.add_noise(x0, noise, t), t, other)
        assert torch.allclose(there, other.time(snr), atol=1e-9)
        assert torch.allclose(x, other.add_noise(x0, noise, there), atol=1e-9)

    def test_dtype_and_shape_of_the_time_are_kept(self, process):
        t = times(process)[:6].reshape(2, 3).float()
        for f in (process.alpha, process.sigma, process.log_snr):
            assert f(t).shape == t.shape and f(t).dtype == torch.float32


def test_the_chain_is_diffusers_own():
    product = DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod.double()
    t = torch.arange(1000, dtype=torch.float64) / 999
    assert torch.allclose(COSINE.alpha(t) ** 2, product, rtol=1e-9)
    assert torch.allclose(COSINE.sigma(t) ** 2, 1 - product, rtol=1e-9)
    assert torch.equal(COSINE.discretise(1000), product)
    assert COSINE.log_snr(torch.ones(1, dtype=torch.float64)).item() == pytest.approx(-19.8, abs=0.1)


def test_a_float32_time_finds_its_timestep():
    t = torch.arange(1000, dtype=torch.float64) / 999
    assert torch.allclose(COSINE.alpha(t.float()).double(), COSINE.alpha(t), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 16, 50])
def test_vp_grids_are_diffusers_trailing_timesteps(steps):
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert (COSINE.grid(steps) * 999).round().long().tolist() == scheduler.timesteps.tolist()


def test_edm_times_are_karras():
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(18)
    assert torch.allclose(EDM().time_at(torch.arange(17, -1, -1), 18).float(), scheduler.sigmas[:-1], rtol=1e-4)


def test_flow_times_are_flow_matchings():
    scheduler = FlowMatchEulerDiscreteScheduler()
    x0, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1.0])
    assert torch.allclose(scheduler.scale_noise(x0, torch.tensor([1000.0]), noise), Flow().add_noise(x0, noise, t))


def test_the_start_is_noise_in_the_processs_own_scale():
    noise = torch.randn(3, 2)
    assert torch.equal(COSINE.initial(noise), noise) and torch.equal(Flow().initial(noise), noise)
    assert torch.equal(EDM().initial(noise), 80 * noise) and torch.equal(EDM().initial(noise, 5.0), 5 * noise)


def test_zero_terminal_snr_stays_finite():
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=True)
    process = VariancePreserving(tuple(scheduler.alphas_cumprod.tolist()))
    assert torch.isfinite(process.log_snr(torch.ones(1))).all()


def test_what_is_no_process_is_refused():
    for table in ([0.5], [0.5, 0.6], [[0.9, 0.8]]):
        with pytest.raises(SettingsError, match="decreasing"):
            VariancePreserving(tuple(table))
    with pytest.raises(SettingsError, match="sigma_min"):
        EDM(1.0, 0.5)
    with pytest.raises(SettingsError, match="unknown noise process 'x'"):
        Process.from_dict({"kind": "x"})
    with pytest.raises(SettingsError, match="sigma_mn"):
        Process.from_dict({"kind": "edm", "sigma_mn": 1.0})


def test_a_process_first_used_within_a_derivative_can_still_be_copied():
    process = VariancePreserving.cosine()
    torch.func.jvp(process.log_snr, (torch.tensor([0.5]),), (torch.tensor([1.0]),))
    copied = copy.deepcopy(process)
    assert copied == process and torch.equal(copied.log_snr(torch.tensor([0.5])), process.log_snr(torch.tensor([0.5])))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.kind)
def test_factors_that_are_written_to_leave_the_times_alone(process):
    times = process.grid(4)
    kept = times.clone()
    for factor in (process.alpha(times), process.sigma(times)):
        factor.zero_()
    assert torch.equal(times, kept)


class LookUps(TorchFunctionMode):
    """Counts entries taken from tables."""

    count = 0

    def __torch_function__(self, function, types, arguments=(), named=None):
        self.count += function is torch.Tensor.__getitem__
        return function(*arguments, **(named or {}))


def test_noise_levels_of_the_same_times_are_looked_up_once_and_anew_where_they_were_written_to():
    process, times = VariancePreserving.cosine(), torch.rand(5)
    fresh = VariancePreserving.cosine()
    with LookUps() as seen:
        alpha, sigma, log_snr = process.alpha(times), process.sigma(times), process.log_snr(times)
    assert seen.count == 1      # the entries below and above, at once
    assert torch.equal(log_snr, fresh.log_snr(times)) and torch.equal(alpha, fresh.alpha(times.clone()))
    assert torch.equal(sigma, fresh.sigma(times.clone()))
    times.mul_(0.5)
    assert torch.equal(process.alpha(times), VariancePreserving.cosine().alpha(times.clone()))
    for value in range(50):     # times that are gone, and others in their place
        now = torch.full((3,), value / 50)
        assert torch.equal(process.sigma(now), fresh.sigma(now.clone()))
        del now


@pytest.mark.parametrize("kind", ["inference", "derivative", "gradient"])
def test_what_is_bound_to_its_surroundings_is_not_kept(kind):
    process, times = VariancePreserving.cosine(), torch.rand(3).double()
    if kind == "inference":
        with torch.inference_mode():
            process.alpha(times)
    elif kind == "derivative":
        torch.func.jvp(lambda x: x * process.alpha(times), (torch.ones(3),), (torch.ones(3),))
    else:
        process.alpha(times.requires_grad_())
    weight = torch.ones(3, requires_grad=True)
    (weight * process.alpha(times)).sum().backward()
    torch.testing.assert_close(weight.grad, VariancePreserving.cosine().alpha(times.detach().clone()).float())
    moved = torch.func.jvp(lambda x: x * process.alpha(times), (torch.ones(3),), (torch.ones(3),))[1]
    torch.testing.assert_close(moved, process.alpha(times))

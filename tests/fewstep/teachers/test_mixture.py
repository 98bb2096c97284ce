"""The closed-form teacher against formulas, autograd and its own samples."""

import math

import pytest
import torch

from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.diffusion.sampling import sample
from fewstep.teachers import GaussianMixture
from fewstep.util.errors import SettingsError

PROCESSES = [VariancePreserving.cosine(), Flow(), EDM()]
MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.2], [0.1, -1.3]], dtype=torch.float64)
STDS = [0.3, 0.2, 0.5]
WEIGHTS = [1.0, 2.0, 3.0]


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.kind)
class TestInEveryProcess:
    def test_one_gaussian_has_the_textbook_denoiser(self, process):
        mean, s = torch.tensor([0.4, -0.7], dtype=torch.float64), 0.6
        teacher = GaussianMixture(mean[None], s, process=process)
        for snr in (-6.0, 0.0, 4.0):
            t = process.time(torch.tensor(snr, dtype=torch.float64))
            alpha, sigma = process.alpha(t), process.sigma(t)
            x = process.add_noise(mean + s * draws(50, 2), draws(50, 2).flip(0), t)
            exact = mean + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x - alpha * mean)
            assert torch.allclose(teacher.x0(x, t), exact, atol=1e-12)

    def test_the_score_is_the_gradient_of_the_log_density(self, process):
        teacher = GaussianMixture(MEANS, STDS, WEIGHTS, process)
        x = draws(40, 2).requires_grad_()
        labels = torch.arange(40) % 4
        for snr in (-5.0, 0.0, 3.0):
            t = process.time(torch.tensor(snr, dtype=torch.float64))
            for condition in (None, labels):
                (exact,) = torch.autograd.grad(teacher.log_prob(x, t, condition).sum(), x)
                assert torch.allclose(teacher.predict(x, t, condition).score, exact, atol=1e-9)

    def test_all_readings_agree(self, process):
        teacher = GaussianMixture(MEANS, STDS, WEIGHTS, process)
        t = process.time(torch.linspace(-6, 6, 30, dtype=torch.float64))
        p = teacher.predict(draws(30, 2), t)
        assert torch.allclose(p.alpha * p.x0 + p.sigma * p.epsilon, p.x, atol=1e-11)
        for kind in ("epsilon", "sample", "v_prediction", "flow_prediction"):
            assert p.as_type(kind).shape == p.x.shape
        assert torch.allclose(p.as_type("flow_prediction"), p.epsilon - p.x0, atol=1e-9)

    def test_the_flow_of_one_gaussian_is_affine(self, process):
        mean, s = torch.tensor([0.4, -0.7], dtype=torch.float64), 0.6
        teacher = GaussianMixture(mean[None], s, process=process)
        x = process.initial(draws(20, 2))

        def spread(t):
            t = torch.tensor(t, dtype=torch.float64)
            return process.alpha(t), (process.alpha(t) ** 2 * s**2 + process.sigma(t) ** 2).sqrt()

        (a, wide), (b, narrow) = spread(process.t_max), spread(process.t_min)
        exact = b * mean + narrow / wide * (x - a * mean)
        assert torch.allclose(teacher.flow(x, process.t_max, process.t_min), exact, atol=1e-6)

    def test_the_velocity_is_the_slope_of_the_flow(self, process):
        teacher = GaussianMixture(MEANS, STDS, WEIGHTS, process)
        t = float(process.time(torch.tensor(0.3, dtype=torch.float64)))
        if process.kind == "variance_preserving":
            t = (round(t * 999) + 0.5) / 999  # between two knots of the interpolated log-SNR
        x, h = draws(20, 2), 1e-4 * t
        slope = (teacher.flow(x, t, t + h, steps=8) - teacher.flow(x, t, t - h, steps=8)) / (2 * h)
        assert torch.allclose(teacher.predict(x, t).velocity, slope, atol=1e-5)

    def test_the_flow_goes_back_where_it_came_from(self, process):
        teacher = GaussianMixture(MEANS, STDS, WEIGHTS, process)
        x = process.initial(draws(20, 2))
        there = teacher.flow(x, process.t_max, process.t_min, steps=128)
        back = teacher.flow(there, process.t_min, process.t_max, steps=128)
        assert torch.allclose(back, x, atol=1e-4 * process.t_max)

    def test_the_flow_of_noise_has_the_density_of_the_data(self, process):
        teacher = GaussianMixture(MEANS, STDS, WEIGHTS, process)
        samples = teacher.flow(process.initial(draws(4000, 2)), process.t_max, process.t_min, steps=32)
        exact = teacher.exact_samples(4000, torch.Generator().manual_seed(1)).double()
        spread = (samples.var(0) + exact.var(0)).div(4000).sqrt()
        assert ((samples.mean(0) - exact.mean(0)).abs() < 4 * spread).all()
        assert ((samples**2).mean(0) / (exact**2).mean(0) - 1).abs().max() < 0.12
        near = [torch.cdist(x, MEANS).argmin(1).bincount(minlength=3) / 4000 for x in (samples, exact)]
        assert (near[0] - near[1]).abs().max() < 0.04


def test_labels_name_components_and_the_last_one_the_mixture():
    teacher = GaussianMixture(MEANS, STDS, WEIGHTS)
    x, t = draws(30, 2), 0.5
    for k in range(3):
        alone = GaussianMixture(MEANS[k : k + 1], STDS[k])
        labels = torch.full((30,), k)
        assert torch.allclose(teacher.x0(x, t, labels), alone.x0(x, t), atol=1e-12)
        assert torch.allclose(teacher.log_prob(x, t, labels), alone.log_prob(x, t), atol=1e-12)
    assert torch.equal(teacher.x0(x, t, torch.full((30,), 3)), teacher.x0(x, t))


def test_guidance_is_u_plus_s_times_c_minus_u():
    teacher = GaussianMixture(MEANS, STDS, WEIGHTS)
    x, t, labels = draws(30, 2), 0.5, torch.arange(30) % 3
    u, c = teacher.x0(x, t), teacher.x0(x, t, labels)
    assert torch.allclose(teacher.x0(x, t, labels, 2.5), u + 2.5 * (c - u), atol=1e-12)
    assert torch.allclose(teacher.x0(x, t, labels, 0.0), u, atol=1e-12)


def test_a_groups_label_is_the_mixture_of_its_components():
    teacher = GaussianMixture(MEANS, STDS, WEIGHTS, groups=[(0, 2)])
    alone = GaussianMixture(MEANS[[0, 2]], [STDS[0], STDS[2]], [WEIGHTS[0], WEIGHTS[2]])
    x, labels = draws(30, 2), torch.full((30,), 4)
    assert torch.allclose(teacher.x0(x, 0.5, labels), alone.x0(x, 0.5), atol=1e-12)
    assert torch.allclose(teacher.log_prob(x, 0.5, labels), alone.log_prob(x, 0.5), atol=1e-12)
    drawn = teacher.labelled_samples(4000, torch.Generator().manual_seed(0), torch.arange(4000) % 5)[1]
    shares = drawn[torch.arange(4000) % 5 == 4].bincount(minlength=3) / 800
    assert shares[1] == 0 and abs(float(shares[0]) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 800)
    assert (drawn[torch.arange(4000) % 5 == 1] == 1).all()


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.kind)
def test_guidance_by_each_condition_is_the_score_of_the_reweighted_densities(process):
    """p(x) (p(x|g) / p(x))^s1 (p(x|c) / p(x|g))^s2, differentiated by autograd."""
    teacher = GaussianMixture(MEANS, STDS, WEIGHTS, process, groups=[(0, 2)])
    x, c = draws(30, 2).requires_grad_(), torch.tensor([0, 2, 1]).repeat(10)
    g = torch.tensor([4, 4, 1]).repeat(10)  # what no group holds is one condition
    t = process.time(torch.tensor(0.0, dtype=torch.float64))
    nothing, group, whole = (teacher.log_prob(x, t, labels) for labels in (None, g, c))
    density = nothing + 1.5 * (group - nothing) + 3.0 * (whole - group)
    gradient = torch.autograd.grad(density.sum(), x)[0]
    assert torch.allclose(teacher.predict(x, t, c, (1.5, 3.0)).score, gradient, atol=1e-9)


def test_exact_samples_have_the_promised_moments():
    teacher = GaussianMixture(MEANS, STDS, WEIGHTS)
    x, labels = teacher.labelled_samples(20_000, torch.Generator().manual_seed(0))
    shares = labels.bincount(minlength=3) / 20_000
    assert torch.allclose(shares, torch.tensor([1 / 6, 2 / 6, 3 / 6]), atol=4 * math.sqrt(0.25 / 20_000))
    for k in range(3):
        mine = x[labels == k].double()
        assert (mine.mean(0) - MEANS[k]).abs().max() < 4 * STDS[k] / math.sqrt(len(mine))
        assert abs(mine.std(0).mean() / STDS[k] - 1) < 0.05
    again = teacher.exact_samples(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(again, x)
    wanted = torch.tensor([2, 2, 0, 3])
    assert teacher.labelled_samples(4, torch.Generator(), wanted)[1][:3].tolist() == [2, 2, 0]


def test_samples_may_have_any_shape():
    teacher = GaussianMixture(torch.zeros(2, 1, 4, 4), 0.5)
    x = draws(3, 1, 4, 4)
    assert teacher.sample_shape == (1, 4, 4) and teacher.x0(x, 0.5).shape == x.shape
    assert teacher.flow(x, 1.0, 0.0, steps=4).shape == x.shape


def test_computation_stays_in_float64_and_answers_in_the_callers_dtype():
    teacher = GaussianMixture(MEANS, STDS).to(torch.float32)
    assert torch.equal(teacher.means, torch.as_tensor(MEANS, dtype=torch.float64)), "cast and not rounded"
    assert teacher.x0(draws(3, 2).float(), 0.5).dtype == torch.float32


def test_what_is_no_mixture_is_refused():
    for bad in ((MEANS[0], 0.1), (MEANS, [0.1, 0.0, 0.1]), (MEANS, 0.1, [1.0, -1.0, 1.0]), (MEANS, 0.1, [1.0])):
        with pytest.raises(SettingsError, match="mixture"):
            GaussianMixture(*bad)


def test_labels_and_samples_that_do_not_fit_are_refused_wherever_they_come_in():
    teacher, x, source = GaussianMixture(MEANS, STDS), draws(2, 2), torch.Generator()
    calls = {
        "predict": lambda x, labels: teacher.predict(x, 0.5, labels).x0,
        "flow": lambda x, labels: teacher.flow(x, 1.0, 0.0, labels, steps=2),
        "log_prob": lambda x, labels: teacher.log_prob(x, 0.5, labels),
        "exact_samples": lambda x, labels: teacher.exact_samples(len(x), source, labels),
        "sample": lambda x, labels: sample(teacher, x, steps=2, condition=labels).x,
    }
    for name, call in calls.items():
        assert torch.isfinite(call(x, torch.tensor([0, 3]))).all()
        assert name == "exact_samples" or len(call(x[:0], torch.tensor([], dtype=torch.int64))) == 0
        for odd, what in (([0, 1], "a list"), (torch.tensor([0.0, 1.7]), "torch.float32"),
                          (torch.tensor([0, 99]), "label 99"), (torch.tensor([-1, 0]), "label -1"),
                          (torch.tensor([0]), r"shape \(1,\)")):  # fmt: skip
            with pytest.raises(SettingsError, match=rf"\(2,\) of class labels, 0 … 2 or 3 for no class; got {what}"):
                call(x, odd)
    for name in ("predict", "flow", "log_prob"):
        with pytest.raises(SettingsError, match=r"of shape \(N, 2\), got \(2, 1\)"):
            calls[name](x[:, :1], None)
    with pytest.raises(SettingsError, match=r"of shape \(N, 2\)"):
        teacher.log_posterior(x[:, :1])

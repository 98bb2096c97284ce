"""The kernel distance against a direct double sum and closed forms, and the chain it is differentiated through."""

import pytest
import torch

from fewstep.objectives.mmd.loss import KERNELS, _median_distance, unbiased
from fewstep.objectives.mmd.settings import MmdSettings
from fewstep.objectives.registry import build
from fewstep.training.step.batches import Sources, TensorData
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.step_context import Step, StepSetup
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    S,
    consistency,
    mean_and_error,
    samples,
    student,
    zero,
)


def draws(n, d, seed, mean=0.0):
    return mean + torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel_of(name, x, y, width):
    between, kernel = KERNELS[name]
    return kernel(between(torch.cat([x, y])), width)


@pytest.mark.parametrize("name", KERNELS)
def test_the_statistic_is_the_double_sum_over_different_samples(name):
    x, y = draws(7, 3, 0), draws(7, 3, 1, 0.5)

    def k(a, b):
        square = float((a - b).square().sum())
        return {
            "gaussian": torch.tensor(-square / (2 * 0.8**2)).exp().item(),
            "rational_quadratic": 1 / (1 + square / (2 * 0.8**2)),
            "cubic": (float(a @ b) / 3 + 1) ** 3,
        }[name]

    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs) / len(pairs)
    assert abs(float(unbiased(kernel_of(name, x, y, 0.8))) - expected) < 1e-6


def test_its_expectation_is_zero_at_equality_and_the_closed_form_for_two_gaussians():
    def closed(variance, shift, width, d=2):  # E k(a, b) of a - b ~ N(shift, variance I)
        total = width**2 + variance
        return (width**2 / total) ** (d / 2) * torch.tensor(-(d * shift**2) / (2 * total)).exp()

    for mean in (0.0, 0.6):
        values = []
        for k in range(100):
            x, y = draws(16, 2, 2 * k), draws(16, 2, 2 * k + 1, mean)
            values.append(unbiased(kernel_of("gaussian", x, y, 1.3)))
        centre, error = mean_and_error(values)
        zero(centre - 2 * (closed(2.0, 0.0, 1.3) - closed(2.0, mean, 1.3)), error)


def step_of(own, n, k, steps, classes=0):
    process = own.process
    y = torch.arange(8192) % classes if classes else None
    sources = Sources(data=TensorData(samples(8192), y))
    grid = process.grid(steps).tolist()
    setup = StepSetup({"student": own}, grid, sources, sampler="ode")
    return Step(setup, "student", Draws(0, 0, k, n, torch.device("cpu")))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_it_vanishes_in_expectation_at_the_exact_flow_map_and_pulls_the_mean_back(process):
    term = build(MmdSettings(term="mmd", bandwidths=(1.0,)))
    own = student(process, consistency)
    zero(*mean_and_error([term.loss(step_of(own, 256, k, 1))[0].detach() for k in range(16)]))
    own.network.shift.data += 0.3
    term.loss(step_of(own, 1024, 0, 1))[0].backward()
    assert (own.network.shift.grad > 0).all()


def test_the_gradient_goes_through_every_step_of_the_chain():
    process = PROCESSES[1]
    own = student(process, lambda x, alpha, sigma: MU + S / 2 * x)
    step = step_of(own, 4, 0, 2)
    assert step.grid == [1.0, 0.5]
    gain, shift = own.network.gain, own.network.shift
    step.shared.sampled.sum().backward()
    z = step.draws.normal("generator")

    def chain(shift):
        x = z
        x0 = MU + S / 2 * x + shift
        x = 0.5 * x0 + 0.5 * (x - 0 * x0)
        return (MU + S / 2 * x + shift).sum()

    point = torch.zeros(2, requires_grad=True)
    chain(point).backward()
    torch.testing.assert_close(shift.grad, point.grad)
    assert gain.grad is not None


def test_with_labels_only_samples_of_one_class_are_compared():
    term = build(MmdSettings(term="mmd", bandwidths=(1.0,)))
    own = student(PROCESSES[1], consistency)
    own.num_classes, own.null_class = 2, None
    step = step_of(own, 64, 0, 1, classes=2)
    value = term.loss(step)[0]
    x, y, labels = step.shared.sampled, step.batch.data, step.batch._data[1]
    scale = float(torch.pdist(y).median())
    total, pairs = 0.0, 0
    for i in range(64):
        for j in range(64):
            if i == j:
                continue
            pairs += 1
            if labels[i] == labels[j]:
                k = [float(kernel_of("gaussian", a[None], b[None], scale)[0, 1]) for a, b in
                     ((x[i], x[j]), (y[i], y[j]), (x[i], y[j]), (x[j], y[i]))]  # fmt: skip
                total += k[0] + k[1] - k[2] - k[3]
    assert abs(float(value) - total / pairs) < 1e-4


@pytest.mark.parametrize("rows", [[0, 1, 2, 0, 1, 2, 0], [3, 3, 4], [5, 5, 5], [0, 1, 2, 3, 4, 5]])
def test_conditions_that_are_asked_for_twice_count_once_for_the_width(rows):
    found = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))[torch.tensor(rows)]
    distinct = torch.unique(found, dim=0)
    wanted = torch.pdist(distinct).median() if len(distinct) > 1 else torch.tensor(1.0)
    assert float(_median_distance(found, distinct=True)) == float(wanted)
    assert float(_median_distance(found)) == max(float(torch.pdist(found).median()), 1e-6)

"""Mean velocity against the exact one of a Gaussian: u = (x_t - x_r) / (t - r), in every process."""

import itertools
import math

import pytest
import torch

from fewstep.diffusion.adapters import Angle
from fewstep.diffusion.conditions import TensorTable
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs
from fewstep.diffusion.noise_level_settings import UniformTimes
from fewstep.diffusion.processes import EDM, Flow, like
from fewstep.networks.block_features import predict_with_features
from fewstep.networks.extra_inputs import add_inputs
from fewstep.networks.initial_weights import build as initialised
from fewstep.networks.unet_mlp import ResidualMLP
from fewstep.objectives.common.derivatives import jvp
from fewstep.objectives.common.dispersion import dispersion
from fewstep.objectives.common.distances import per_sample
from fewstep.objectives.common.flow_coordinates import flow_time, tangent
from fewstep.objectives.mean_velocity.loss import adaptive, from_derivative, from_parts
from fewstep.objectives.mean_velocity.settings import Dispersion, MeanVelocitySettings
from fewstep.objectives.registry import build
from fewstep.objectives.term_settings import Needs
from fewstep.recipes import load_recipe
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    Disturbed,
    S,
    gaussian,
    gradients,
    make_step,
    samples,
    zero,
)

TIMES = UniformTimes(low=0.05, high=0.95)


def spread(u):
    """Standard deviation of y_u for data of deviation S."""
    return ((1 - u) ** 2 * S**2 + u**2).sqrt()


def exact(y, u, r):
    """The mean velocity of the Gaussian's flow from u to r at y (N, ...); its velocity where r = u."""
    u, r = (per_sample(value, y).to(y.dtype) for value in (u, r))
    centred = y - (1 - u) * MU
    there = (1 - r) * MU + spread(r) / spread(u) * centred
    velocity = -MU + (u - (1 - u) * S**2) / spread(u) ** 2 * centred
    point = (u - r).abs() < 1e-6
    return torch.where(point, velocity, (y - there) / torch.where(point, torch.ones_like(u), u - r))


class TwoTimes(Denoiser):
    """The exact mean velocity, disturbed, in any process."""

    def __init__(self, process):
        super().__init__(Disturbed(), process, "flow_prediction", (2,))

    def predict(self, x, t, condition=None, guidance=1.0, *, second=None, scale=None):
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        u, r = flow_time(self.process, t), flow_time(self.process, t if second is None else second)
        total = like(self.process.alpha(t) + self.process.sigma(t), x)
        return self._prediction(x, t, self.network(exact(x / total, u, r)))


def term(**options):
    return build(MeanVelocitySettings(term="mean_velocity", **{"times": TIMES, "instantaneous": 0.5, **options}))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_native_tangents_follow_the_path_in_flow_coordinates(process):
    u = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    x0, noise = (torch.randn(3, 2, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
    t, small = process.time(2 * ((1 - u) / u).log()), 1e-6
    near = [process.time(2 * ((1 - v) / v).log()) for v in (u - small, u + small)]
    x_dot, t_dot = tangent(process, process.add_noise(x0, noise, t), t, noise - x0)
    before, after = (process.add_noise(x0, noise, time) for time in near)
    torch.testing.assert_close(t_dot, (near[1] - near[0]) / (2 * small), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(x_dot, (after - before) / (2 * small), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(flow_time(process, t), u)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_both_identities_hold_exactly_at_the_exact_mean_velocity(process):
    denoiser, teacher = TwoTimes(process).double(), gaussian(process)
    u, r, s = (torch.tensor(v, dtype=torch.float64) for v in ([0.9, 0.5], [0.1, 0.4], [0.3, 0.45]))
    t, t_r, t_s = (process.time(2 * ((1 - v) / v).log()) for v in (u, r, s))
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = denoiser.predict(x, t, second=t_r).as_type("flow_prediction")
    velocity = teacher.predict(x, t).as_type("flow_prediction")

    def mean(x, t):
        return denoiser.predict(x, t, second=t_r).as_type("flow_prediction")

    derivative = jvp(mean, (x, t), tangent(process, x, t, velocity))[1]
    torch.testing.assert_close(from_derivative(velocity, derivative, u - r), whole, rtol=1e-10, atol=1e-10)
    first = denoiser.predict(x, t, second=t_s)
    between = process.add_noise(first.x0, first.epsilon, t_s)
    second = denoiser.predict(between, t_s, second=t_r).as_type("flow_prediction")
    found = from_parts(first.as_type("flow_prediction"), second, (u - s) / (u - r))
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)


KINDS = {
    "derivative": {},
    "own": {"tangent": "own"},
    "difference": {"difference": 0.02},
    "splitting": {"identity": "splitting"},
    "shortcut": {"identity": "splitting", "split": "middle", "dyadic": 4},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_loss_is_zero_at_the_optimum_with_the_teachers_velocity_and_pulls_back_to_it(process, kind):
    own = TwoTimes(process)
    networks = {"student": own, "teacher": gaussian(process)}
    built = term(velocity="teacher", **KINDS[kind])
    assert built.loss(make_step(networks, n=2048, data=samples(2048)))[0] < 2e-5
    own.network.shift.data += 0.1
    built.loss(make_step(networks, n=2048, data=samples(2048)))[0].backward()
    assert (own.network.shift.grad > 0).all()


def test_the_bias_of_the_difference_is_of_second_order_in_its_width():
    networks = {"student": TwoTimes(Flow()), "teacher": gaussian(Flow())}
    times = UniformTimes(low=0.5, high=0.8)   # neither the path nor the interval ends within the width
    step = make_step(networks, n=2048, data=samples(2048))
    options = {"velocity": "teacher", "times": times, "second_times": UniformTimes(low=0.0, high=0.2)}
    losses = [term(**options, instantaneous=0.0, difference=width).loss(step)[0].item() for width in (0.2, 0.1, 0.05)]
    orders = [math.log2(coarse / fine) / 2 for coarse, fine in itertools.pairwise(losses)]
    assert all(1.7 < order < 2.6 for order in orders), orders


def test_a_difference_is_taken_without_rounding_to_bfloat16():
    step = make_step({"student": gaussian(Flow())}, n=16)
    x, velocity = samples(16), samples(16, seed=4)
    t, r, turn = torch.full((16,), 0.7), torch.full((16,), 0.2), torch.tensor([[0.8, -0.6], [0.6, 0.8]])

    def found():
        mean = lambda x, t, r, condition: x @ turn  # noqa: E731
        return term(difference=0.1)._differenced(step, mean, x, t, r, None, velocity)

    with torch.autocast("cpu", torch.bfloat16):
        rounded = found()
    assert torch.equal(rounded, found())


def test_a_difference_goes_with_the_derivative():
    with pytest.raises(ValueError, match="difference"):
        term(identity="splitting", difference=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_gradient_vanishes_in_expectation_with_the_velocity_of_the_data(process, kind):
    zero(*gradients(term(**KINDS[kind]), {"student": TwoTimes(process)}, steps=12, n=1024, data=samples(1 << 14)))


def test_the_adaptive_weight_of_one_sample_needs_a_velocity_without_noise():
    networks = {"student": TwoTimes(Flow()), "teacher": gaussian(Flow())}
    mean, _ = gradients(term(power=1.0, point_power=1.0, velocity="teacher"), networks, steps=4, data=samples(1 << 14))
    assert mean.abs().max() < 1e-2
    error = torch.tensor([0.0, 1.0, 9.0])
    torch.testing.assert_close(adaptive(error, 1.0, 1.0), torch.tensor([0.0, 0.5, 0.9]))
    torch.testing.assert_close(adaptive(error, 0.0, 1.0), error)


def test_dyadic_intervals_have_lengths_of_powers_of_two_at_multiples_of_themselves():
    built = term(dyadic=3, instantaneous=0.0)
    step = make_step({"student": TwoTimes(Flow())}, n=4096, data=samples(8))
    t, r = (flow_time(Flow(), time) for time in built._interval(step))
    length = t - r
    power = -length.log2()
    assert ((power - power.round()).abs() < 1e-3).all() and set(power.round().tolist()) == {0.0, 1.0, 2.0}
    assert ((t / length - (t / length).round()).abs() < 1e-3).all()
    share = (power.round() == 0).double().mean()
    assert abs(share - 1 / 3) < 0.03


def test_intervals_grow_to_their_full_length_over_a_share_of_the_round():
    built, full = term(growth=0.5, instantaneous=0.0), term(instantaneous=0.0)
    step = make_step({"student": TwoTimes(Flow())}, n=64, data=samples(8))
    t, r = full._interval(step)
    for progress, share in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)):
        step.progress = progress
        start, end = built._interval(step)
        torch.testing.assert_close(start, t)
        torch.testing.assert_close(start - end, share * (t - r), atol=1e-5, rtol=1e-4)


def test_a_share_of_the_intervals_are_points_and_the_second_time_has_its_own_distribution():
    built = term(second_times=UniformTimes(low=0.0, high=0.1), instantaneous=0.25, times=UniformTimes(low=0.2))
    t, r = built._interval(make_step({"student": TwoTimes(EDM())}, n=4096, data=samples(8)))
    moving = r < t
    assert abs(moving.double().mean() - 0.75) < 0.03
    assert (flow_time(EDM(), r[moving]) <= 0.1001).all() and (flow_time(EDM(), t) >= 0.1999).all()


def test_a_share_of_the_intervals_is_the_whole_path_whatever_their_growth():
    built = term(identity="splitting", whole=0.25, instantaneous=0.5, growth=0.5)
    step = make_step({"student": TwoTimes(Flow())}, n=4096, data=samples(8))
    step.progress = 0.25
    t, r = built._interval(step)
    whole = (t == step.grid[0]) & (r == Flow().t_min)
    assert abs(whole.double().mean() - 0.25) < 0.03 and abs((r == t).double().mean() - 0.5) < 0.03
    with pytest.raises(ValueError, match="of 1 at most in sum"):
        term(identity="splitting", whole=0.6)


@pytest.mark.parametrize("lengths", [{}, {"dyadic": 3}])
def test_a_share_of_the_intervals_ends_at_clean_data_with_starts_as_the_times_are_drawn(lengths):
    built = term(identity="splitting", clean=0.25, whole=0.125, growth=0.5, times=UniformTimes(), **lengths)
    step = make_step({"student": TwoTimes(Flow())}, n=8192, data=samples(8))
    step.progress = 0.75
    t, r = built._interval(step)
    at_end = (r == Flow().t_min) & (step.draws.uniform("instantaneous") >= 0.5)
    whole = at_end & (t == step.grid[0])
    assert abs(at_end.double().mean() - 0.375) < 0.03 and abs((r == t).double().mean() - 0.5) < 0.03
    assert whole.double().mean() >= 0.125 - 0.02
    if not lengths:
        assert abs(flow_time(Flow(), t[at_end & ~whole]).mean() - 0.5) < 0.02  # of two draws the later has mean 2/3


def test_the_whole_path_is_no_interval_to_learn_by_the_derivative():
    with pytest.raises(ValueError, match="diverges"):
        term(whole=0.25)


@pytest.mark.parametrize("shares", [{}, {"instantaneous": 0.0}, {"clean": 0.25, "whole": 0.25, "growth": 0.9},
                                    {"dyadic": 3}])  # fmt: skip
def test_who_cannot_look_asks_for_the_intervals_that_were_drawn_to_be_some(shares):
    built = term(identity="splitting", **shares)
    step = make_step({"student": TwoTimes(Flow())}, n=512, data=samples(8))
    step.progress = 0.5
    t, r = built._interval(step)
    there = built._moving(step, t, r)
    drawn = built._moving(step, t.to("meta"), r.to("meta"))
    assert drawn.device.type == "meta" and 0 < len(there) <= len(drawn) <= 512
    asked = (step.draws.uniform_here("instantaneous") >= built.settings.instantaneous).nonzero()[:, 0]
    assert len(drawn) == len(asked) and set(there.tolist()) <= set(asked.tolist())
    assert torch.equal(step.draws.uniform_here("instantaneous"), step.draws.uniform("instantaneous"))


def test_guided_velocity_mixes_the_students_own_readings_and_leaves_the_null_class_alone():
    class Labelled(TwoTimes):
        def predict(self, x, t, condition=None, guidance=1.0, *, second=None, scale=None):
            label = torch.full((len(x),), 3.0) if condition is None else condition.float()
            return self._prediction(x, torch.as_tensor(t).double(), label[:, None].expand(x.shape))

    own = Labelled(Flow())
    own.num_classes, own.null_class = 3, 3
    built = term(guidance=2.0, mixing=0.25)
    x, t = torch.zeros(2, 2), torch.full((2,), 0.5)
    step = make_step({"student": own}, n=2, data=samples(8))
    found = built._velocity(step, x, t, torch.tensor([1, 3]), torch.full((2, 2), 5.0))
    torch.testing.assert_close(found, torch.tensor([[2 * 5 + 0.25 * 1 - 1.25 * 3] * 2, [5.0] * 2]))


def test_guided_velocity_is_guided_away_from_each_conditions_own_null():
    class Labelled(TwoTimes):
        def predict(self, x, t, condition=None, guidance=1.0, *, second=None, scale=None):
            return self._prediction(x, torch.as_tensor(t).double(), condition.float()[:, None].expand(x.shape))

    own = Labelled(Flow()).take(TensorTable({"text": torch.zeros(6, 1)}, torch.tensor([3, 4, 5])))
    x, t = torch.zeros(3, 2), torch.full((3,), 0.5)
    step = make_step({"student": own}, n=3, data=samples(8))
    found = term(guidance=2.0)._velocity(step, x, t, torch.tensor([1, 2, 4]), torch.full((3, 2), 5.0))
    torch.testing.assert_close(found, torch.tensor([[2 * 5 - 4.0] * 2, [2 * 5 - 5.0] * 2, [5.0] * 2]))


def test_dispersion_is_the_double_sum_zero_at_collapse_and_pushes_apart():
    h = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pairs = [(h[i] - h[j]).square().mean() for i in range(5) for j in range(5)]
    expected = torch.stack([(-d / 0.7).exp() for d in pairs]).mean().log()
    value = dispersion(h, 0.7)
    torch.testing.assert_close(value, expected)
    assert abs(float(dispersion(torch.ones(6, 4), 0.7))) < 1e-6
    value.backward()
    distance = torch.pdist(h.detach().flatten(1)).mean()
    assert torch.pdist((h - 0.1 * h.grad).detach().flatten(1)).mean() > distance


def test_dispersion_asks_for_no_more_where_features_are_far_apart():
    h = (1e4 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    value = dispersion(h, 0.7)
    value.backward()
    torch.testing.assert_close(value, torch.tensor(-math.log(5)))
    assert h.grad.abs().max() < 1e-6


def of_two_times() -> Denoiser:
    """An untrained network that takes a second time."""
    network = initialised(lambda: ResidualMLP((2,)))
    return add_inputs(Denoiser(network, Flow(), "v_prediction", (2,), adapter=Angle()), ExtraInputs(second_time=True))


def test_dispersion_joins_the_loss_with_its_weight():
    networks = {"student": of_two_times()}
    step = make_step(networks, n=64, data=samples(64))
    plain, _ = term().loss(step)
    loss, statistics = term(dispersion=Dispersion(weight=0.3, temperature=2.0)).loss(step)
    torch.testing.assert_close(loss, plain + 0.3 * statistics["dispersion"])
    assert -math.inf < statistics["dispersion"] < 0


def test_dispersion_is_of_every_block_in_turn_of_chance():
    student, own = of_two_times(), term(dispersion=Dispersion())
    found = []
    for k in range(40):
        step = make_step({"student": student}, n=8, k=k, data=samples(8))
        t, r = own._interval(step)
        x = student.process.add_noise(step.batch.data, step.draws.normal("noise", like=step.batch.data), t)
        with torch.no_grad():
            features = predict_with_features(student, x, t, None, second=r, every=True)[1]
        each = [float(dispersion(feature, 1.0)) for feature in features]
        drawn = float(own.loss(step)[1]["dispersion"])
        found.append(min(range(len(each)), key=lambda block, drawn=drawn, each=each: abs(each[block] - drawn)))
        assert drawn == pytest.approx(each[found[-1]], rel=1e-5)
    assert set(found) == set(range(len(each)))


@pytest.mark.parametrize("name", ["meanflow", "splitmeanflow", "dm1", "twinflow"])
def test_recipes_from_data_need_no_teacher(name):
    assert load_recipe(name).needs == Needs(data=True)

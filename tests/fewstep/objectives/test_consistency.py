"""Consistency against closed forms: order in the step for each solver, place of comparison and source of points."""

import math

import pytest
import torch

from fewstep.diffusion.noise_level_settings import LogNormalTimes, UniformTimes
from fewstep.diffusion.processes import EDM, Flow, VariancePreserving
from fewstep.objectives.bootstrap.settings import BootstrapSettings
from fewstep.objectives.consistency.level_pairs import cells, pair
from fewstep.objectives.consistency.loss import phase_edge
from fewstep.objectives.consistency.point_pairs import solver_step
from fewstep.objectives.consistency.settings import ConsistencySettings, Grid, TeacherPoints
from fewstep.objectives.consistency.states import State
from fewstep.objectives.registry import build
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    SIGMAS,
    Pairs,
    States,
    TwoTimes,
    consistency,
    flow_map,
    gaussian,
    gradients,
    leading_to,
    make_step,
    samples,
    step_of,
    student,
    zero,
)

GRID = [3.0, 1.0, 0.3]
"""Noise ratios of a student of three steps."""


def term(**choice):
    return build(ConsistencySettings(term="consistency", **{"distance": "l2", "weighting": "even", **choice}))


def orders(values):
    return [math.log2(a / b) for a, b in zip(values, values[1:], strict=False)]


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize(("solver", "order"), [("ddim", 2), ("heun", 3)])
def test_distillation_at_the_exact_function_vanishes_at_the_order_of_the_solver(process, solver, order):
    """A step of an exact teacher misses by O(h^2) with Euler's method, O(h^3) with Heun's (PERFORMANCE.md, c.4)."""
    networks = {"student": student(process, consistency), "teacher": gaussian(process)}
    residuals = []
    for n in (24, 48):
        points = {"kind": "teacher", "solver": solver, "levels": {"kind": "grid", "cells": n}}
        step = step_of(networks, ratios=(5.0,), n=1 << 12, data=samples(1 << 12))
        residuals.append(float(term(points=points).loss(step)[0].detach().sqrt()))
    assert abs(orders(residuals)[0] - order) < 0.25, residuals


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_more_substeps_are_a_finer_solver(process):
    networks = {"student": student(process, consistency), "teacher": gaussian(process)}
    found = []
    for substeps in (1, 2, 4):
        levels = {"kind": "grid", "cells": 8}
        points = {"kind": "teacher", "substeps": substeps, "levels": levels}
        step = step_of(networks, ratios=(5.0,), n=1 << 12, data=samples(1 << 12))
        found.append(float(term(points=points).loss(step)[0].detach().sqrt()))
    assert 0.7 < orders(found)[-1] < 1.5, found


def to_the_edge(x, alpha, sigma, edges=GRID):
    """x0 and epsilon whose straight step leads exactly to the next of GRID: what a phased student should predict."""
    nu = (sigma / alpha).double()
    edge = torch.zeros_like(nu)
    for ratio in edges:
        edge = torch.where((edge == 0) & (ratio < nu * (1 - 1e-6)), torch.full_like(nu, ratio), edge)
    state, one = x.double() / alpha, torch.ones_like(nu)
    arrived = flow_map(state, one, nu, one, edge)
    return leading_to(arrived, state, one, nu, one, edge).to(x.dtype)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_phases_are_the_students_steps_and_the_exact_phased_function_is_consistent(process):
    networks = {"student": student(process, to_the_edge), "teacher": gaussian(process)}
    residuals = []
    for n in (40, 80):
        points = {"kind": "teacher", "solver": "heun", "levels": {"kind": "grid", "cells": n}}
        step = step_of(networks, ratios=GRID, n=1 << 12, data=samples(1 << 12))
        residuals.append(float(term(points=points, to="phase").loss(step)[0].detach().sqrt()))
    assert residuals[0] < 1e-3 and orders(residuals)[0] > 2.3, residuals
    edges = phase_edge(step, torch.tensor([3.0, 1.01, 1.0, 0.31, 0.3, 0.01], dtype=torch.float64))
    assert torch.allclose(edges, torch.tensor([1.0, 1.0, 0.3, 0.3, 0.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_a_shifted_student_is_pulled_back(process):
    """The target at the clean end is the point itself, so a shift of both predictions does not cancel."""
    own = student(process, consistency)
    points = {"kind": "teacher", "solver": "heun", "levels": {"kind": "grid", "cells": 4}}
    for shift in (0.2, -0.2):
        own.network.shift.data.fill_(shift)
        mean, error = gradients(term(points=points), {"student": own, "teacher": gaussian(process)}, steps=8,
                                data=samples(1 << 12))  # fmt: skip
        assert bool((shift * mean[:2] > 0).all()) and bool((mean[:2].abs() > 4.5 * error[:2]).all())


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_a_random_target_is_followed_by_its_mean_with_squares_and_by_its_median_with_a_norm(process):
    """Two modes, far below the noise: there the flow is x - m ~ nu by their mean m, not by the heavier one."""
    mean = torch.tensor([-1.8, 0.0])
    data = torch.tensor([[-3.0, 0.0]] * 4 + [[3.0, 0.0]]).repeat(800, 1)
    exact = student(process, lambda x, alpha, sigma: mean + (x / alpha - mean) * alpha / sigma)
    levels = {"kind": "gap", "k": 0, "stages": 1, "times": {"kind": "uniform", "low": 0.97, "high": 0.98}}
    points = {"kind": "data", "levels": levels}

    def pull(**distance):
        return gradients(term(points=points, **distance), {"student": exact}, steps=16, data=data)

    zero(*(part[:2] for part in pull(distance="l2")))
    zero(*(part[:2] for part in pull(distance="pseudo_huber", huber=10.0)))
    found, error = (float(part[0]) for part in pull(distance="pseudo_huber", huber=0.0))
    assert abs(found - 0.6) < SIGMAS * error + 1e-3  # 0.8 - 0.2: downhill is towards the heavier mode


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("reach", [1, 3])
def test_states_of_one_trajectory_agree_and_its_end_is_a_target(process, reach):
    points = {"kind": "trajectory", "reach": reach}
    exact = step_of({"student": student(process, consistency)}, n=512, pairs=States(process))
    assert term(points=points).loss(exact)[0] < 1e-8
    other = student(process, lambda x, alpha, sigma: torch.full_like(x, MU))  # agrees with itself, not with the end
    assert term(points=points).loss(step_of({"student": other}, n=512, pairs=States(process)))[0] > 0.02


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_a_stochastic_step_keeps_the_marginal(process):
    """For data in one point the denoiser is exact all along the way, and so is every step, however much it renews."""
    teacher = gaussian(process, std=1e-4)
    step = make_step({"student": teacher}, n=1 << 15)
    nu = torch.full((step.draws.size,), 2.0, dtype=torch.float64)
    begin = State.noised(torch.full((step.draws.size, 2), MU), step.draws.normal("noise"), nu)
    for churn in (0.0, 0.5, 1.0):
        points = TeacherPoints(kind="teacher", churn=churn)
        end = solver_step(step, teacher, begin, nu / 2, points, 1.0, "churn").x
        assert abs(end.mean() - MU) < 0.02 and abs(end.std() - 1) < 0.02
        kept = torch.corrcoef(torch.stack([begin.x[:, 0], end[:, 0]]))[0, 1]
        assert abs(kept - math.sqrt(1 - churn**2 * 0.75)) < 0.02  # s^2 = churn^2 (1 - 1/4)


def test_grids_grow_as_published_and_the_decay_with_them():
    ct = Grid(kind="grid", first=2, cells=150)
    assert [cells(ct, p) for p in (0, 0.25, 1)] == [2, 76, 150]
    ict = Grid(kind="grid", first=10, cells=1280, growth="double")
    assert [cells(ict, k / 8) for k in range(8)] == [10 * 2**k for k in range(8)]
    assert cells(ict, 0.9999) == 1280 and cells(Grid(kind="grid", cells=18), 0.3) == 18
    data = {"kind": "data", "levels": {"kind": "grid", "first": 2, "cells": 150}}
    own = term(points=data, target_ema=0.9, target_ema_grows=True)
    assert own.target_decay(0.0) == pytest.approx(0.9) and own.target_decay(1.0) == pytest.approx(0.9 ** (2 / 150))
    assert term(points=data, target_ema=0.9).target_decay(1.0) == 0.9 and term(points=data).target_decay(0.5) is None


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("spacing", ["karras", "native"])
def test_pairs_are_neighbours_on_the_grid_from_the_start_of_the_student_to_clean_data(process, spacing):
    step = step_of({"student": student(process, consistency)}, n=4096)
    nu, near = pair(step, Grid(kind="grid", cells=5, spacing=spacing))
    levels = nu.unique()
    assert abs(levels[-1] - 80) < 1e-3
    assert len([a for a, b in zip(levels, levels[1:], strict=False) if b > a * (1 + 1e-6)]) == 4
    below = near[near > 0].unique()
    assert bool((near < nu).all()) and bool((near == 0).any()) and below[-1] < 80
    assert all(float((levels / b - 1).abs().min()) < 1e-6 for b in below)
    far = Grid(kind="grid", cells=5, spacing=spacing, reach=5)
    assert bool((pair(step, far)[1] < pair(step, far)[0]).all())


def test_cells_are_drawn_as_the_levels_asked_for():
    step = step_of({"student": student(EDM(), consistency)}, n=1 << 15)
    nu, _ = pair(step, Grid(kind="grid", cells=200, times=LogNormalTimes(mean=-1.1, std=1.0)))
    assert abs(nu.log().mean() + 1.1) < 0.1 and abs(nu.log().std() - 1) < 0.1


def test_truncation_takes_the_former_student_below_the_cut_and_holds_the_two_together_there():
    process = Flow()
    levels = {"kind": "gap", "times": UniformTimes(low=0.5, high=0.9), "k": 0, "q": 1e6, "ratio_cap": 0.01}
    own = student(process, consistency)
    networks = {"student": own, "start": student(process, lambda x, a, s: torch.full_like(x, 3.0))}
    cut = {"at": 1.0, "boundary_share": 0.0}
    loss = term(points={"kind": "data", "levels": levels}, truncation=cut).loss(
        make_step(networks, n=256, data=samples(256))
    )[0]
    assert loss > 1  # all near points lie below the cut, where the former student says 3
    networks["start"] = student(process, consistency)
    cut = {"at": 1.0, "boundary_share": 1.0, "boundary_weight": 0.1}
    held = term(points={"kind": "data", "levels": levels}, truncation=cut)
    assert held.loss(make_step(networks, n=256, data=samples(256)))[0] < 1e-12
    own.network.shift.data.fill_(0.1)
    found = held.loss(make_step(networks, n=256, data=samples(256)))[0]
    assert abs(found - 0.1 * 0.01) < 1e-6


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("carry", [False, True])
def test_maps_between_any_two_times_agree_to_the_order_of_the_solver(process, carry):
    """CTM: the exact flow map of two times is consistent wherever predictions are compared."""
    networks = {"student": TwoTimes(process), "target": TwoTimes(process), "teacher": gaussian(process)}
    residuals = []
    for n in (16, 32):
        levels = {"kind": "grid", "cells": n, "reach": 2}
        points = {"kind": "teacher", "solver": "heun", "levels": levels}
        made = term(points=points, to="any", carry=carry, target_ema=0.9)
        loss = made.loss(step_of(networks, ratios=(5.0,), n=1 << 11, data=samples(1 << 11)))[0]
        residuals.append(float(loss.detach().sqrt()))
    assert residuals[0] < 0.01 and orders(residuals)[0] > 2.3, residuals


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_bootstrapping_at_the_exact_map_vanishes_at_the_order_of_its_step(process):
    """A step of the signal's ODE with the teacher's prediction held fixed misses by O(h^2)."""
    networks = {"student": TwoTimes(process), "teacher": gaussian(process)}
    residuals = []
    for n in (20, 40):
        own = build(BootstrapSettings(term="bootstrap", levels={"kind": "grid", "cells": n}, boundary_share=0.0))
        residuals.append(float(own.loss(step_of(networks, ratios=(5.0,), n=1 << 11))[0].detach().sqrt()))
    assert residuals[0] < 0.05 and abs(orders(residuals)[0] - 2) < 0.45, residuals
    held = build(BootstrapSettings(term="bootstrap", boundary_share=1.0))
    step = step_of(networks, n=256)
    assert held.loss(step)[0] < 1e-6  # at the noise end, the exact map to that very time reads as the denoiser


def test_a_term_of_two_times_asks_for_a_student_of_two_times():
    from fewstep.recipes import load_recipe, parse_recipe

    for name in ("ctm", "boot"):
        data = load_recipe(name).model_dump(mode="json")
        data["student"]["second_time"] = False
        with pytest.raises(Exception, match="set student.second_time"):
            parse_recipe(data, name)


def test_what_does_not_fit_together_is_refused():
    for wrong in (
        {"points": {"kind": "trajectory"}, "to": "phase"},
        {"target_ema": 0.9, "target_ema_grows": True},
        {"carry": True, "to": "any"},
    ):
        with pytest.raises(ValueError, match="needs|go with"):
            term(**wrong)
    vp = VariancePreserving.cosine()
    with pytest.raises(Exception, match="needs a set with states"):
        term(points={"kind": "trajectory"}).loss(make_step({"student": student(vp, consistency)}, n=8, pairs=Pairs()))

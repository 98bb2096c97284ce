"""The critic against closed forms: its optimum is the log density ratio, R1 is what finite differences say."""

import math

import pytest
import torch

from fewstep.diffusion.processes import Flow
from fewstep.objectives.adversarial.loss import change_under_noise, critic_hinge, gradient_norm, student_hinge
from fewstep.objectives.adversarial.settings import AdversarialSettings, HeadPool
from fewstep.objectives.common.feature_heads import FeatureHeads
from fewstep.objectives.consistency.settings import ConsistencySettings
from fewstep.objectives.registry import build
from fewstep.recipes import parse_recipe
from fewstep.util.errors import SettingsError
from tests.fewstep.objectives.gaussian import (
    IDS,
    MU,
    PROCESSES,
    S,
    consistency,
    gaussian,
    make_step,
    samples,
    step_of,
    student,
)
from tests.fewstep.objectives.test_consistency import GRID, to_the_edge
from tests.fewstep.training.small import BATCH, finish, run, teacher, tiny

FAKE = MU + 0.6  # mean of the student's samples


def itself():
    """A feature network: x is its own feature."""
    return lambda x: x


def critic_of(kind="softplus", **more):
    """(term, networks): an untrained critic of samples N(FAKE, S^2) against data N(MU, S^2)."""
    term = build(AdversarialSettings(term="adversarial", features="samples", times=None, loss=kind,
                                      extractor=f"{__name__}:itself", **more))  # fmt: skip
    own = student(Flow(), lambda x, alpha, sigma: FAKE + S * x / sigma)
    return term, {"student": own}


def prepared(term, networks, data, n=512, k=0, role="discriminator"):
    step = make_step(networks, n=n, k=k, role=role, data=data)
    if not term.heads:
        term.prepare(step, 1)
    return step


def test_the_critics_optimum_is_the_log_density_ratio_and_moves_the_student_to_the_data():
    term, networks = critic_of()
    data = samples(1 << 14)
    prepared(term, networks, data)
    optimiser = torch.optim.Adam(term.heads["discriminator"].parameters(), lr=2e-2)
    for k in range(250):
        loss, _ = term.loss(prepared(term, networks, data, k=k))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = 2e-2 * (1 - k / 250)
    x = samples(512, mean=(MU + FAKE) / 2, seed=8)
    exact = ((x - FAKE).square() - (x - MU).square()).sum(1) / (2 * S**2)
    found = term.heads["discriminator"]["heads"]([x])[:, 0]
    assert (found - exact).square().mean().sqrt() < 0.1 * exact.std(), (found - exact).std()

    step = prepared(term, networks, data, role="student")
    pull = torch.autograd.grad(term.loss(step)[0], networks["student"].network.shift)[0]
    # d/dm E softplus(-D(x)), D = log p/q: -E sigmoid(-D) dD/dx, dD/dx = (MU - FAKE) / S^2 in every direction
    fake = samples(1 << 16, mean=FAKE, seed=9)
    ratio = ((fake - FAKE).square() - (fake - MU).square()).sum(1) / (2 * S**2)
    expected = (torch.sigmoid(-ratio) * (FAKE - MU) / S**2).mean()
    assert torch.allclose(pull, expected.expand(2), rtol=0.1), (pull, expected)


@pytest.mark.parametrize("labels", [0, 3])
def test_r1_is_the_squared_gradient_by_finite_differences(labels):
    heads = FeatureHeads([4], 8, 3, heads=2, labels=labels).double()
    source = torch.Generator().manual_seed(1)
    x = torch.randn(16, 4, generator=source, dtype=torch.float64).requires_grad_()
    y = torch.arange(16) % labels if labels else None
    with torch.no_grad():
        for embedding in heads.embedding:
            embedding.normal_(generator=source)

    def judge(at):
        return heads([at], y)

    found = gradient_norm(judge(x), [x])
    h, squares = 1e-5, torch.zeros(16, dtype=torch.float64)
    for k in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[k] = h
        squares += ((judge(x + shift) - judge(x - shift)).mean(1) / (2 * h)).detach().square()
    assert torch.allclose(found.double(), squares.mean(), rtol=1e-5)
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters() if p.grad is not None)


def test_the_approximate_penalty_tends_to_the_exact_one():
    slope = torch.tensor([1.0, -2.0], dtype=torch.float64)
    x = torch.randn(1 << 16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = change_under_noise((x @ slope)[:, None], ((x + 0.01 * noise) @ slope)[:, None], 0.01)
    assert abs(values - slope.square().sum()) < 4.5 * slope.square().sum() * math.sqrt(2 / len(x))


@pytest.mark.parametrize("kind", ["exact", "features", "approximate"])
def test_a_penalty_is_added_to_the_critics_loss_only(kind):
    penalty = {"kind": kind, "weight": 10.0}
    (plain, networks), (term, _) = critic_of(), critic_of(gradient_penalty=penalty)
    data = samples(1 << 12)
    without = plain.loss(prepared(plain, networks, data))[0]
    loss, figures = term.loss(prepared(term, networks, data))
    assert torch.allclose(loss - without, 10 * figures["steepness"]) and figures["steepness"] > 0
    if kind != "approximate":
        loss.backward()
    fair = plain.loss(prepared(plain, networks, data, role="student"))[0]
    assert torch.equal(term.loss(prepared(term, networks, data, role="student"))[0], fair)


def test_hinge_has_its_known_values_and_stops_where_the_critic_is_sure():
    logits = torch.zeros(8, requires_grad=True)
    assert critic_hinge(logits, logits).item() == 2 and student_hinge(logits).item() == 0
    sure = critic_hinge(torch.full((4,), 1.5), torch.full((4,), -1.5))
    assert sure.item() == 0
    student_hinge(logits).backward()
    assert (logits.grad == -1 / 8).all()


def test_a_pool_asks_some_heads_and_begins_some_anew():
    heads = FeatureHeads([6, 3], 5, 0, heads=8)
    features = [torch.randn(4, 6, 2, 2), torch.randn(4, 3)]
    asked = torch.tensor([5, 2])
    assert torch.allclose(heads(features)[:, asked], heads(features, asked=asked), atol=1e-6)
    before = heads(features)
    heads.refresh([2, 7], torch.Generator().manual_seed(3))
    changed = (heads(features) != before).any(0)
    assert changed.tolist() == [k in (2, 7) for k in range(8)]
    term, networks = critic_of(pool={"size": 8, "asked": 2, "refreshed": 0.5})
    step = prepared(term, networks, samples(64), n=16)
    pool = term.heads["discriminator"]["heads"]
    first = pool.inner[0].clone()
    term.after_update(prepared(term, networks, samples(64), n=16, role="student"))
    assert torch.equal(first, pool.inner[0])
    term.after_update(step)
    fresh = (pool.inner[0] != first).flatten(1).any(1).sum()
    assert 0 < fresh < 8


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="goes with `features: samples`"):
        AdversarialSettings(term="adversarial", features="teacher", extractor="a:b")
    with pytest.raises(ValueError, match="needs noise levels"):
        AdversarialSettings(term="adversarial", features="teacher", times=None)
    with pytest.raises(ValueError, match="of a frozen network"):
        AdversarialSettings(term="adversarial", features="samples", gradient_penalty={"kind": "features"})
    with pytest.raises(ValueError, match="9 heads of a pool of 8"):
        HeadPool(size=8, asked=9)
    term, networks = critic_of()
    term.settings = term.settings.model_copy(update={"extractor": "tests.nowhere:network"})
    with pytest.raises(SettingsError, match="tests.nowhere:network"):
        prepared(term, networks, samples(8), n=4)


def test_heads_on_the_teacher_leave_it_alone_and_have_a_turn_of_their_own(tmp_path):
    job = run(tiny("ladd"), tmp_path, images=4 * BATCH)
    before = {name: value.clone() for name, value in job.teacher.state_dict().items()}
    after = finish(job)
    assert all(torch.equal(value, job.teacher.state_dict()[name]) for name, value in before.items())
    assert any(not torch.equal(value, after[name]) for name, value in teacher().state_dict().items())


@pytest.mark.parametrize("to", ["clean", "phase", "carried"])
@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_what_a_consistency_term_compares_is_judged_at_the_level_where_it_lies(process, to):
    """The exact maps lead to noised data; noised further those are the data at a higher level, as their targets are.

    A student beside it gives other states, and the critic's turn asks it without a graph.
    """
    n, levels = 1 << 13, {"kind": "grid", "cells": 40, "least": 0.002}
    ratios = (5.0,) if to == "clean" else GRID
    points = {"kind": "teacher", "solver": "heun", "levels": levels}
    where = {"to": "clean"} if to == "clean" else {"to": "phase"}
    where |= {"carry": True, "target_ema": 0.9} if to == "carried" else {}
    own = student(process, consistency if to == "clean" else to_the_edge)
    networks = {"student": own, "teacher": gaussian(process), "teacher_network": gaussian(process)}
    networks["target"] = student(process, consistency)
    terms = [build(ConsistencySettings(term="consistency", points=points, **where)),
             build(AdversarialSettings(term="adversarial", at="compared", features="samples"))]  # fmt: skip
    read = []
    terms[1]._read = lambda step, x, t: read.append((x, t)) or [x]
    for role, shift in (("discriminator", 0.0), ("student", 0.0), ("student", 0.6)):
        own.network.shift.data.fill_(shift)
        step = step_of(networks, ratios=ratios, role=role, n=n, data=samples(n), terms=terms)
        for what in ("fake", "real"):
            terms[1]._features(step, what)
            x, t = read.pop()
            assert x.requires_grad == (role == "student" and what == "fake")
            alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
            normal = ((x.detach() - alpha * MU) / (alpha**2 * S**2 + sigma**2).sqrt()).flatten()
            mean, error = float(normal.mean()), float(normal.std()) / len(normal) ** 0.5
            if shift and what == "fake":
                assert mean > 10 * error, mean
            elif not shift:
                assert abs(mean) < 4.5 * error and abs(float(normal.std()) - 1) < 0.03, (role, what, mean, error)


def test_what_is_compared_needs_a_term_that_compares():
    critic = {"term": "adversarial", "at": "compared", "features": "teacher"}
    recipe = {"name": "x", "rounds": [{"terms": [critic], "turns": {"student": 1, "discriminator": 1}}]}
    with pytest.raises(SettingsError, match="needs a term in its round that compares"):
        parse_recipe(recipe, "x")
    with_it = [{"term": "consistency", "points": {"kind": "trajectory"}}, critic]
    mixed = {"name": "x", "rounds": [{**recipe["rounds"][0], "terms": [*with_it, {"term": "denoising"}]}]}
    with pytest.raises(SettingsError, match="labels of their own"):
        parse_recipe(mixed, "x")
    for wrong, why in (({"paired": True}, "goes with `at: hops`"), ({"real": "pairs"}, "goes with `at: samples`"),
                       ({"features": "samples", "times": None}, "give its levels")):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            AdversarialSettings(**{**critic, **wrong})


@pytest.mark.parametrize("inputs", ["data", "pairs"])
def test_heads_judge_steps_that_begin_at_noised_samples(inputs, tmp_path):
    """A whole round of two steps, which changes with what the second step is given."""
    made = []
    for given in (inputs, "own"):
        recipe = tiny("ladd", steps=2).model_dump(mode="json")
        recipe["rounds"][0]["inputs"] = given
        recipe["rounds"][0]["terms"][0]["real"] = "data" if inputs == "data" else "pairs"
        made.append(finish(run(parse_recipe(recipe, "x"), tmp_path / given, images=12 * BATCH)))
    assert any(not torch.equal(value, made[1][name]) for name, value in made[0].items())

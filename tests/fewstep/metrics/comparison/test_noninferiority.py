"""Margins, power and Holm's correction against what the formulas say, and the decision's error rates by simulation."""

import json

import numpy as np
import pytest
from scipy.stats import binom, norm

from fewstep.metrics.comparison.contrasts import MARGINS, contrasts
from fewstep.metrics.comparison.noninferiority import (
    BETTER,
    UNCLEAR,
    WEAK,
    WITHIN,
    WORSE,
    Contrast,
    OfReal,
    holm,
    judge,
)
from fewstep.metrics.comparison.paired_differences import (
    repeat_difference,
    repeat_radius,
    share_difference,
    share_gap,
)
from fewstep.metrics.observed import Observed
from fewstep.util.errors import SettingsError


def contrast(excess, error, margin=1.0, metric="kid", **more):
    return Contrast(metric, "", excess, error, 100, margin, 0.0, 0.0, **more)


@pytest.mark.parametrize(("excess", "error", "verdict"), [
    (-0.5, 0.1, BETTER), (-0.1, 0.1, WITHIN), (0.5, 0.2, WITHIN), (2.0, 0.2, WORSE), (0.9, 0.2, UNCLEAR),
    (0.0, 0.7, WEAK), (2.0, 2.0, WEAK), (-5.0, 2.0, BETTER),
])  # fmt: skip
def test_each_verdict(excess, error, verdict):
    (finding,) = judge([contrast(excess, error)], 0.05, 0.8).findings
    assert finding.verdict == verdict
    assert finding.at_most == pytest.approx(excess + norm.ppf(0.95) * error)


def test_what_promotes_and_what_does_not():
    def judged(*found):
        return judge(list(found), 0.05, 0.8)

    good, same = contrast(-0.5, 0.1), contrast(0.0, 0.1)
    assert judged(good, same).superior and not judged(same, same).superior and judged(same, same).not_inferior
    assert not judged(good, contrast(2.0, 0.1)).not_inferior, "better in one figure makes up for none that is worse"
    guard = contrast(-0.5, 0.1, guard=True)
    assert judged(guard, same).not_inferior and not judged(guard, same).superior
    assert "too little power" in judged(contrast(0.0, 0.7)).reasons()[0]
    reasons = judged(contrast(0.9, 0.2), contrast(2.0, 0.1, metric="class_accuracy")).reasons()
    assert reasons[0].startswith("class_accuracy: worse than") and reasons[1].startswith("kid: not shown")
    assert judged(good).reasons() == []


def test_power_is_the_chance_of_an_equal_model():
    one = contrast(0.0, 0.4)
    drawn = one.standard_error * np.random.default_rng(0).normal(size=200_000)
    passed = drawn + norm.ppf(0.95) * one.standard_error < one.margin
    assert one.power(0.05) == pytest.approx(passed.mean(), abs=0.005)
    more = Contrast("kid", "", 0.0, 0.4 * (100 / one.n_for(0.05, 0.9)) ** 0.5, 0, 1.0, 0, 0)
    assert more.power(0.05) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize(("candidate", "champion", "verdict"), [
    (0.2, -0.6, WITHIN),  # as real images are, against a champion beyond them
    (1.5, -0.6, WORSE),  # further below them than the margin
    (0.2, 0.6, WITHIN), (-0.9, -0.6, WITHIN),  # better than the champion only where real images are already
    (0.2, 1.9, BETTER), (-0.9, 1.9, BETTER), (2.0, 1.9, WITHIN), (2.0, 0.3, WORSE),
])  # fmt: skip
def test_nobody_need_be_better_than_real_images(candidate, champion, verdict):
    """Figures as excesses over real images, the margin 1, all errors 0.2 (of the champion over them 0.4)."""
    one = contrast(candidate - champion, 0.2, real=OfReal(0.0, candidate, 0.2, champion, 0.4))
    (finding,) = judge([one], 0.05, 0.8).findings
    assert finding.verdict == verdict
    assert f"real images {0:.4g}" in "".join(judge([one], 0.05, 0.8).reasons()) or verdict != WORSE
    assert json.loads(json.dumps(finding.to_dict())) == finding.to_dict(), "the record holds what was decided on"


@pytest.mark.parametrize("champion", [0.0, 0.05, 0.1])
def test_a_model_that_is_worse_than_real_images_and_the_champion_seldom_slips_through(champion):
    """Real images are mistaken in 5 %, the candidate by its margin more often than the worse of champion and these."""
    chance, passed, called_better = np.random.default_rng(7), 0, 0
    for _ in range(300):
        real, other = chance.random(300) < 0.05, chance.random(300) < champion
        wrong = chance.random(300) < max(champion, 0.05) + 0.1
        passed += judge([_share(wrong, other, real)], 0.05, 0.8).not_inferior
        fine = chance.random(300) < 0.02  # better than real images: no merit where the champion is as they are
        called_better += champion <= 0.05 and _share(fine, other, real).p_better() < 0.05
    assert passed <= binom.ppf(0.99, 300, 0.05) and called_better <= binom.ppf(0.99, 300, 0.05)


def _share(a, b, real) -> Contrast:
    found, mine, theirs = share_difference(a, b), share_gap(a, real), share_gap(b, real)
    return Contrast("class_accuracy", "7", found.value, found.standard_error, found.n, 0.1, 0, 0,
                    real=OfReal(0.0, mine.value, mine.standard_error, theirs.value, theirs.standard_error))  # fmt: skip


def test_holm_is_the_step_down():
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert holm([0.02], 0.05) == [True] and holm([], 0.05) == []
    assert holm([0.04, 0.001], 0.05) == [True, True] and holm([0.2, 0.02, 0.024], 0.05) == [False] * 3


def test_shares_in_pairs_cover_the_truth_and_are_never_certain():
    chance, missed = np.random.default_rng(1), 0
    for _ in range(400):
        common = chance.random(80) < 0.1
        a, b = common | (chance.random(80) < 0.05), common | (chance.random(80) < 0.02)
        found = share_difference(a, b)
        missed += abs(found.value - 0.9 * (0.05 - 0.02)) > 1.96 * found.standard_error
    assert missed <= binom.ppf(0.99, 400, 0.05)
    nothing = share_difference(np.zeros(50, bool), np.zeros(50, bool))
    assert nothing.value == 0 and nothing.standard_error > 0.01
    with pytest.raises(SettingsError, match="got 2 and 3"):
        share_difference(np.zeros(2, bool), np.zeros(3, bool))


def test_shares_of_unlike_samples_cover_the_truth_and_are_never_certain():
    chance, missed = np.random.default_rng(4), 0
    for _ in range(400):
        found = share_gap(chance.random(400) < 0.05, chance.random(45) < 0.1)
        missed += abs(found.value + 0.05) > 1.96 * found.standard_error
    assert missed <= binom.ppf(0.99, 400, 0.05)
    assert share_gap(np.zeros(9, bool), np.zeros(9, bool)).standard_error > 0.05


def test_repeats_are_found_wherever_the_modes_lie():
    """k exemplars of equal weight repeat with probability 1/k; the standard error is that of independent draws."""
    chance, k, n = np.random.default_rng(2), 5, 60
    groups = [np.arange(n), np.arange(n, 2 * n)]
    real = chance.normal(size=(2 * n, 4))
    radius = repeat_radius(real, groups, 0.01)
    found = [repeat_difference(chance.normal(size=(k, 4))[chance.integers(k, size=2 * n)] * 3, real, groups, radius)
             for _ in range(100)]  # fmt: skip
    assert np.mean([one.first for one in found]) == pytest.approx(1 / k, abs=0.03)
    assert 0 < found[0].second < 0.03
    same = [repeat_difference(*chance.normal(size=(2, 2 * n, 4)), groups, radius) for _ in range(200)]
    assert np.std([one.value / one.standard_error for one in same]) < 1.1
    with pytest.raises(SettingsError, match="at least 2 samples of a class"):
        repeat_difference(real, real, [np.array([0])], radius)


CLASSES, N = 3, 180
TIGHT = dict.fromkeys(MARGINS, 1.0)


def world(trial: int):
    """Two models with one distribution and other weights, and a reference from which both differ a little."""
    means = 1.5 * np.random.default_rng(0).normal(size=(CLASSES, 6))
    chance = np.random.default_rng([1, trial])
    asked, labels = np.arange(N) % CLASSES, np.arange(90) % CLASSES
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0]
    noise = chance.normal(size=(N, 6))

    def seen(x):
        nearest = np.abs(chance.normal(size=len(x))) + 1
        return Observed(x, ((x[:, None] - means) ** 2).sum(2).argmin(1), nearest, nearest)

    ours, theirs = (seen(means[asked] + 1.1 * z) for z in (noise, noise @ rotation))
    return ours, theirs, seen(means[labels] + chance.normal(size=(90, 6))), asked, labels


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_an_equal_model_is_promoted_no_more_often_than_the_level_allows(level):
    """Margins so wide that nothing but superiority decides, which is the worst case for false promotions."""
    promoted = sum(judge(_of_trial(trial), level, 0.8).superior for trial in range(200))
    assert promoted <= binom.ppf(0.99, 200, level)


_TRIALS: dict[int, list] = {}


def _of_trial(trial: int) -> list:
    if trial not in _TRIALS:
        _TRIALS[trial] = contrasts(*world(trial), TIGHT)
    return _TRIALS[trial]


def test_no_single_contrast_is_called_better_too_often():
    p_values = np.array([[one.p_better() for one in _of_trial(trial)] for trial in range(200)])
    assert (np.sum(p_values < 0.05, axis=0) <= binom.ppf(0.999, 200, 0.05)).all()


def test_a_model_that_is_worse_by_its_margin_is_let_through_no_more_often_than_the_level_allows():
    """The margin of each trial is the true excess of a model that is broken in one class: 5 % may slip through."""
    chance, passed = np.random.default_rng(3), 0
    for _ in range(300):
        wrong = chance.random(200) < 0.15
        found = share_difference(wrong, chance.random(200) < 0.05)
        one = Contrast("class_accuracy", "7", found.value, found.standard_error, found.n, 0.1, 0, 0)
        passed += judge([one], 0.05, 0.8).not_inferior
    assert passed <= binom.ppf(0.99, 300, 0.05)

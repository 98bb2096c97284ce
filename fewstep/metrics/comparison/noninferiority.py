"""Is the candidate at least as good as the champion, and better somewhere? Margins, power and Holm's correction.

A `Contrast` is one gated figure of the two models (of all samples or of one class), turned so that a positive excess
means a worse candidate. No torch here.
"""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

NORMAL = NormalDist()
BETTER, WITHIN, WORSE, UNCLEAR, WEAK = "better", "within", "worse", "unclear", "too few samples"


@dataclass(frozen=True)
class OfReal:
    """What real images score in the same figure, and how much worse than they the two models are.

    Attributes:
        figure: of held-out real images.
        candidate, champion: excesses over the real images, with their standard errors.
    """

    figure: float
    candidate: float
    candidate_error: float
    champion: float
    champion_error: float


@dataclass(frozen=True)
class Contrast:
    """Candidate against champion in one figure.

    Attributes:
        metric: name of the figure.
        group: the class it belongs to; empty for all samples.
        excess: how much worse the candidate is (negative: better), an unbiased estimate,
        standard_error: of it, and
        n: samples behind it.
        margin: the largest excess that is no matter.
        candidate, champion: the figures themselves.
        guard: it may not be worse here, but being better is no merit (noise neither copies nor repeats anything).
        real: for figures in which a model can be better than real images are (one that draws the middle of each class
            is always recognised). To be better than they is no merit and asked of nobody: the candidate is compared
            with the champion or with the real images, whichever of the two is worse.
    """

    metric: str
    group: str
    excess: float
    standard_error: float
    n: int
    margin: float
    candidate: float
    champion: float
    guard: bool = False
    real: OfReal | None = None

    @property
    def name(self) -> str:
        return f"{self.metric} of class {self.group}" if self.group else self.metric

    @property
    def _over(self) -> list[tuple[float, float]]:
        """(excess, its standard error) over the champion and, where they count, over real images. The smaller of the
        true two is what decides."""
        real = [(self.real.candidate, self.real.candidate_error)] if self.real else []
        return [(self.excess, self.standard_error), *real]

    @property
    def worse_by(self) -> float:
        """The excess over the champion or over the real images, whichever of the two is worse."""
        return min(value for value, _ in self._over)

    def excess_at_most(self, level: float) -> float:
        """Upper confidence bound of the excess at 1 − level, one-sided; of two comparisons each gets half the level."""
        wide = self._quantile(level)
        return min(value + wide * error for value, error in self._over)

    def excess_at_least(self, level: float) -> float:
        """Lower confidence bound of the excess at 1 − level, one-sided."""
        return min(value - NORMAL.inv_cdf(1 - level) * error for value, error in self._over)

    def p_better(self) -> float:
        """One-sided p-value of the hypothesis that the candidate is not better, or the champion as good as real images
        are: the larger of the two (intersection-union test)."""
        found = [(self.excess, self.standard_error)]
        if self.real:
            found.append((-self.real.champion, self.real.champion_error))
        return max(_below_zero(*one) for one in found)

    def power(self, level: float) -> float:
        """Probability that a candidate equal to the champion is shown to be within the margin: Φ(margin/se − z)."""
        if self.standard_error == 0:
            return 1.0
        return NORMAL.cdf(self.margin / self.standard_error - self._quantile(level))

    def n_for(self, level: float, power: float) -> int:
        """Samples that would give that power, if the standard error falls with their root."""
        wanted = self._quantile(level) + NORMAL.inv_cdf(power)
        return math.ceil(self.n * (wanted * self.standard_error / self.margin) ** 2)

    def _quantile(self, level: float) -> float:
        return NORMAL.inv_cdf(1 - level / len(self._over))


@dataclass(frozen=True)
class Finding:
    """One contrast and what the data says of it.

    `verdict`: better (after Holm's correction), within (the excess is shown to be below the margin), worse (shown to
    be above it), too few samples (neither, and an equal model would often fail too), unclear (neither, though an equal
    model would have passed). `at_most` is the upper confidence bound of the excess.
    """

    contrast: Contrast
    verdict: str
    at_most: float
    at_least: float

    def to_dict(self) -> dict:
        return {**asdict(self.contrast), "verdict": self.verdict, "at_most": self.at_most, "at_least": self.at_least}


@dataclass(frozen=True)
class Judgement:
    """All findings at one level. The rules are in `not_inferior` and `superior`."""

    findings: tuple[Finding, ...]
    level: float
    power: float

    def having(self, *verdicts: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict in verdicts]

    @property
    def not_inferior(self) -> bool:
        """On every contrast the excess is shown to be below the margin.

        All must pass, so each is tested at the level itself and a candidate that is worse by its margin anywhere is
        let through with at most that probability (intersection-union test, Berger 1982).
        """
        return not self.having(WORSE, UNCLEAR, WEAK)

    @property
    def superior(self) -> bool:
        """Not inferior, and better on at least one contrast after Holm's correction."""
        return self.not_inferior and bool(self.having(BETTER))

    def reasons(self) -> list[str]:
        """Why it is not shown to be at least as good, one line per contrast, worst first, and one for all that lack
        power; empty when it is."""
        said = {WORSE: "worse than the champion beyond", UNCLEAR: "not shown to be within"}
        lines = [f"{found.contrast.name}: {words} the margin of {found.contrast.margin:g}: {_figures(found)}"
                 for verdict, words in said.items() for found in self.having(verdict)]  # fmt: skip
        return lines + self._weak()

    def _weak(self) -> list[str]:
        weak = sorted((found.contrast for found in self.having(WEAK)), key=lambda one: one.power(self.level))
        if not weak:
            return []
        factor = max(one.n_for(self.level, self.power) / one.n for one in weak)
        named = ", ".join(f"{one.name} ({one.power(self.level):.2f})" for one in weak[:4])
        return [f"too little power: a model equal to the champion would be shown to be within the margin with "
                f"probability {self.power:g} or more in all figures but {len(weak)}: {named}"
                f"{', …' if len(weak) > 4 else ''}; about {factor:.1f} times as many samples (register.samples) would "
                "do, unless the two differ so much that it takes more reference images (data.split.test)"]  # fmt: skip


def judge(contrasts: list[Contrast], level: float, power: float) -> Judgement:
    """What the contrasts show at one-sided `level`; `power` is what an inconclusive one is asked for.

    Superiority is tested on all contrasts that are no guards together by Holm's step-down (Holm 1979): the p-values in
    rising order are compared with level/k, level/(k − 1), … up to the first that is larger, which keeps the probability
    of calling any equal figure better below the level.
    """
    merits = [contrast for contrast in contrasts if not contrast.guard]
    better = dict(zip(merits, holm([contrast.p_better() for contrast in merits], level), strict=True))
    found = tuple(_find(contrast, better.get(contrast, False), level, power) for contrast in contrasts)
    return Judgement(found, level, power)


def holm(p_values: list[float], level: float) -> list[bool]:
    """Which hypotheses Holm's step-down rejects while the probability of any false rejection is at most `level`."""
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def _find(contrast: Contrast, better: bool, level: float, power: float) -> Finding:
    at_most, at_least = contrast.excess_at_most(level), contrast.excess_at_least(level)
    if at_most < contrast.margin:
        verdict = BETTER if better else WITHIN
    elif at_least > contrast.margin:
        verdict = WORSE
    else:
        verdict = WEAK if contrast.power(level) < power else UNCLEAR
    return Finding(contrast, verdict, at_most, at_least)


def _below_zero(value: float, error: float) -> float:
    """p-value of the hypothesis that the true value is not below zero."""
    if error == 0:
        return 0.0 if value < 0 else 1.0
    return NORMAL.cdf(value / error)


def _figures(found: Finding) -> str:
    one = found.contrast
    beside = f", real images {one.real.figure:.4g}" if one.real else ""
    return (f"{one.candidate:.4g} against {one.champion:.4g}{beside}, excess {one.worse_by:+.2g} in "
            f"[{found.at_least:+.2g}, {found.at_most:+.2g}] (n = {one.n})")  # fmt: skip

"""Tests that a candidate is not inferior to the champion, and superior in some figure: margins, power, Holm's
correction.

A `Contrast` compares the two models in one figure, of all samples or of one class, with the sign chosen so that a
positive excess means a worse candidate. No torch here.
"""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

NORMAL = NormalDist()
BETTER, WITHIN, WORSE, UNCLEAR, WEAK = "better", "within", "worse", "unclear", "too few samples"


@dataclass(frozen=True)
class OfReal:
    """The same figure of real images, and the excess of the two models over it.

    Attributes:
        figure: of held-out real images.
        candidate, champion: excess of each model over the real images (positive: worse), with standard errors.
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
        group: name of the class or group of prompts, and part: which of both; empty for all samples.
        excess: of the candidate over the champion (negative: better), an unbiased estimate,
        standard_error: of the excess, and
        n: samples behind it.
        margin: the largest excess that is tolerated.
        candidate, champion: the figures of the two models.
        guard: the candidate must not be worse in this figure, but a better value does not count as an improvement
            (noise copies and repeats nothing).
        real: set for figures in which a model can score better than real images do, as an accuracy: a model that draws
            the mean of each class is always recognised. Such a score is no improvement, so it is not required: the
            candidate is compared with the champion or the real images, whichever scores worse.
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
    part: str = "class"

    @property
    def name(self) -> str:
        return f"{self.metric} of {self.part} {self.group}" if self.group else self.metric

    @property
    def _over(self) -> list[tuple[float, float]]:
        """(excess, standard error) over the champion and, where `real` is set, over real images. The smaller of the two
        true excesses decides."""
        real = [(self.real.candidate, self.real.candidate_error)] if self.real else []
        return [(self.excess, self.standard_error), *real]

    @property
    def worse_by(self) -> float:
        """The excess over the champion or over the real images, whichever scores worse."""
        return min(value for value, _ in self._over)

    def excess_at_most(self, level: float) -> float:
        """Upper one-sided confidence bound of the excess at 1 − level; of two comparisons each gets half the level."""
        wide = self._quantile(level)
        return min(value + wide * error for value, error in self._over)

    def excess_at_least(self, level: float) -> float:
        """Lower one-sided confidence bound of the excess at 1 − level."""
        return min(value - NORMAL.inv_cdf(1 - level) * error for value, error in self._over)

    def p_better(self) -> float:
        """One-sided p-value of the hypothesis that the candidate is not better than the champion, or the champion as
        good as real images: the larger of the two p-values (intersection-union test)."""
        tests = [(self.excess, self.standard_error)]
        if self.real:
            tests.append((-self.real.champion, self.real.champion_error))
        return max(_below_zero(value, error) for value, error in tests)

    def power(self, level: float) -> float:
        """Probability that the test passes a candidate equal to the champion: Φ(margin / standard error − z)."""
        if self.standard_error == 0:
            return 1.0
        return NORMAL.cdf(self.margin / self.standard_error - self._quantile(level))

    def n_for(self, level: float, power: float) -> int:
        """Samples that give this power, if the standard error falls as the inverse root of their number."""
        needed = self._quantile(level) + NORMAL.inv_cdf(power)
        return math.ceil(self.n * (needed * self.standard_error / self.margin) ** 2)

    def _quantile(self, level: float) -> float:
        return NORMAL.inv_cdf(1 - level / len(self._over))


@dataclass(frozen=True)
class Finding:
    """One contrast and its verdict.

    Attributes:
        verdict: better (significantly, after Holm's correction), within (the excess is below the margin), worse (the
            excess is above it), too few samples (neither is shown, and an equal model would often fail too), unclear
            (neither is shown, though an equal model would have passed).
        at_most, at_least: one-sided confidence bounds of the excess.
    """

    contrast: Contrast
    verdict: str
    at_most: float
    at_least: float

    def to_dict(self) -> dict:
        return {**asdict(self.contrast), "verdict": self.verdict, "at_most": self.at_most, "at_least": self.at_least}


@dataclass(frozen=True)
class Judgement:
    """The findings of all contrasts, tested at one level."""

    findings: tuple[Finding, ...]
    level: float
    power: float

    def having(self, *verdicts: str) -> list[Finding]:
        """The findings with one of these verdicts."""
        return [finding for finding in self.findings if finding.verdict in verdicts]

    @property
    def not_inferior(self) -> bool:
        """Whether the excess is shown to be below the margin in every contrast.

        All must pass, so each is tested at the full level: a candidate that is worse by the margin in any figure passes
        with at most that probability (intersection-union test, Berger 1982).
        """
        return not self.having(WORSE, UNCLEAR, WEAK)

    @property
    def superior(self) -> bool:
        """Whether it is not inferior, and better in at least one contrast after Holm's correction."""
        return self.not_inferior and bool(self.having(BETTER))

    def reasons(self) -> list[str]:
        """Why it is not shown to be at least as good: one line per contrast that is worse or unclear, and one for all
        that lack power; empty when it is not inferior."""
        phrases = {WORSE: "worse than the champion beyond", UNCLEAR: "not shown to be within"}
        lines = [f"{finding.contrast.name}: {phrase} the margin of {finding.contrast.margin:g}: {_figures(finding)}"
                 for verdict, phrase in phrases.items() for finding in self.having(verdict)]  # fmt: skip
        return lines + self._weak()

    def _weak(self) -> list[str]:
        weak = sorted((finding.contrast for finding in self.having(WEAK)), key=lambda weak: weak.power(self.level))
        if not weak:
            return []
        factor = max(contrast.n_for(self.level, self.power) / contrast.n for contrast in weak)
        named = ", ".join(f"{contrast.name} ({contrast.power(self.level):.2f})" for contrast in weak[:4])
        return [f"too little power: a model equal to the champion would be shown to be within the margin with "
                f"probability {self.power:g} or more in all figures but {len(weak)}: {named}"
                f"{', …' if len(weak) > 4 else ''}; about {factor:.1f} times as many samples (register.samples) would "
                "do, unless the two differ so much that it takes more reference images (data.split.test)"]  # fmt: skip


def judge(contrasts: list[Contrast], level: float, power: float) -> Judgement:
    """Tests every contrast.

    Superiority is tested in all contrasts that are not guards together by Holm's step-down (Holm 1979): the p-values in
    rising order are compared with level/k, level/(k − 1), … up to the first that is larger, which keeps the probability
    of calling any equal figure better below the level.

    Args:
        level: of each one-sided test.
        power: below which an inconclusive contrast is said to have too few samples.
    """
    improvable = [contrast for contrast in contrasts if not contrast.guard]
    better = dict(zip(improvable, holm([contrast.p_better() for contrast in improvable], level), strict=True))
    findings = tuple(_find(contrast, better.get(contrast, False), level, power) for contrast in contrasts)
    return Judgement(findings, level, power)


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


def _figures(finding: Finding) -> str:
    contrast = finding.contrast
    real = f", real images {contrast.real.figure:.4g}" if contrast.real else ""
    return (f"{contrast.candidate:.4g} against {contrast.champion:.4g}{real}, excess {contrast.worse_by:+.2g} in "
            f"[{finding.at_least:+.2g}, {finding.at_most:+.2g}] (n = {contrast.n})")  # fmt: skip

"""Promotion from end to end: what the decision needs, the decision, and what follows from it.

`assess` decides and touches nothing; `promote` moves the alias or records the refusal; `propose` leaves the last word
to a person (tasks.registry.gate.pending_approvals). Checks run from cheap to dear, and the first with a reason against
a version ends the assessment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from fewstep.util.errors import FewstepError, NonFinite
from tasks.config.schema import Register
from tasks.evaluation.documents import Headline, parsed
from tasks.registry import aliases
from tasks.registry.aliases import Decision
from tasks.registry.gate import pending_approvals, promotion_checks
from tasks.registry.model_registry import CHAMPION, Registry, Version

Kind = Literal["", "policy", "floors", "evaluation", "artifact", "identical", "protocol", "lineage", "dvc", "unsound",
               "inferior", "power", "equal"]  # fmt: skip
"""The rule that refused a version; empty where none did."""


def promote(registry: Registry, version: Version, rules: Register, *, policy: str | None = None,
            alias: str = CHAMPION, why: str = "", who: str | None = None, record: bool = True) -> Decision:  # fmt: skip
    """Decides whether `version` becomes `alias`, moves it if so, and returns the decision.

    `policy` stands in the place of `rules.promote`. With `record` a refusal is written down as well. When another
    promotion wins in between, this one decides again against the new champion.
    """
    aliases.complete(registry, version.model)
    while True:
        decision = assess(registry, version, rules, policy=policy, alias=alias)
        if not decision.promoted:
            if record:
                aliases.refuse(registry, decision, who)
            return decision
        try:
            aliases.move(registry, version, decision.former, alias=alias, why=why, who=who, figures=decision.figures)
        except aliases.AliasMoved:
            continue
        return decision


def propose(registry: Registry, version: Version, rules: Register, *, alias: str = CHAMPION, why: str = "",
            who: str | None = None) -> Decision:
    """Decides as `promote` does; what it would promote waits, as a stored decision, for a person."""
    aliases.complete(registry, version.model)
    decision = assess(registry, version, rules, policy="gated", alias=alias)
    if not decision.promoted:
        aliases.refuse(registry, decision, who)
        return decision
    return pending_approvals.store(registry, decision, rules.gate.approval_hours, why=why, who=who)


def assess(registry: Registry, version: Version, rules: Register, *, policy: str | None = None,
           alias: str = CHAMPION) -> Decision:  # fmt: skip
    """What would be decided now; nothing is moved or written.

    `never` refuses; `first` needs that there is no champion and that the floors hold; `gated` needs everything that
    tasks.registry.gate.promotion_checks asks and, where there is a champion, a contest that the version does not lose.
    """
    policy = policy or rules.promote
    number = registry.holder(version.model, alias)
    champion = None if number is None else registry.get(version.model, number)
    assessment = _Assessment(registry, version, champion, rules, policy)
    kind, reasons = assessment.refusal()
    return Decision(version.model, version.number, alias, policy, not reasons, tuple(reasons), number,
                    assessment.figures, kind)  # fmt: skip


@dataclass
class _Assessment:
    """The checks of one version, the figures that they compared, what was measured for the floors, and whether beside
    samples of the teacher."""

    registry: Registry
    version: Version
    champion: Version | None
    rules: Register
    policy: str
    figures: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float | None] = field(default_factory=dict)
    drawn: bool = False

    def refusal(self) -> tuple[Kind, list[str]]:
        """The rule that refuses the version, and its reasons; ("", []) where none does."""
        for kind, check in self._checks():
            reasons = check()
            if reasons:
                return kind, reasons
        if self.policy == "gated" and self.champion is not None:
            return self._contest(self.champion)
        return "", []

    def _checks(self) -> Iterator[tuple[Kind, Callable[[], list[str]]]]:
        """The rules that look at the version alone, in the order in which they are asked. Raises FewstepError."""
        registry, version, champion = self.registry, self.version, self.champion
        yield "policy", self._by_policy
        results = parsed(Headline, version.provenance.results, f"results of {version.name}")
        self.drawn = bool(results.drawn)
        yield "floors", lambda: self._floors(results.floors)
        if self.policy == "first":
            return
        if self.policy != "gated":
            raise FewstepError(f"unknown promotion policy {self.policy!r}: it is never, first or gated")
        yield "evaluation", partial(promotion_checks.incomplete, version)
        yield "artifact", partial(promotion_checks.altered, registry, version)
        if champion is not None:
            yield "identical", partial(promotion_checks.same_model, registry, version, champion)
            yield "protocol", partial(promotion_checks.other_protocol, version, champion)
        yield "lineage", partial(promotion_checks.without_lineage, registry, version, self.figures)
        yield "dvc", partial(promotion_checks.unknown_to_dvc, registry, version)
        yield "unsound", partial(promotion_checks.unsound, registry, version)

    def _by_policy(self) -> list[str]:
        if self.policy == "never":
            return ["register.promote is never"]
        if self.champion is not None and self.champion.number == self.version.number:
            return [f"{self.version.name} is the champion already"]
        if self.policy == "first" and self.champion is not None:
            return [f"there is a champion ({self.champion.name}) and register.promote is first; "
                    f"`fewstep promote {self.version.name}` compares the two"]  # fmt: skip
        return []

    def _floors(self, measured: dict[str, float | None]) -> list[str]:
        self.measured |= measured
        reasons, compared = promotion_checks.check_floors(self.measured, self.rules.floors.model_dump(),
                                                         drawn=self.drawn)  # fmt: skip
        self.figures["floors"] = {**self.figures.get("floors", {}), **compared}
        return reasons

    def _contest(self, champion: Version) -> tuple[Kind, list[str]]:
        """Both evaluated afresh: the floors of what was measured, then the judgement."""
        from tasks.registry.gate import champion_test  # loads torch

        try:
            outcome = champion_test.hold(self.registry, self.version, champion, self.rules.gate, self.rules.samples)
        except NonFinite as error:
            return "unsound", [str(error)]
        self.figures["contest"] = outcome.figures
        missed = self._floors(outcome.floors)
        return ("floors", missed) if missed else (outcome.kind, outcome.reasons)

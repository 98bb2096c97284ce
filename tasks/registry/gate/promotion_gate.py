"""Promotion from end to end: what the decision needs, the decision, and what follows from it.

`assess` decides and touches nothing; `promote` moves the alias or records the refusal; `propose` leaves the last word
to a person (tasks.registry.gate.pending_approvals). Checks run from cheap to dear, and the first that has something against a version ends it.
"""

from collections.abc import Callable, Iterator
from functools import partial

from fewstep.util.errors import FewstepError, NonFinite
from tasks.config.schema import Register
from tasks.registry import aliases
from tasks.registry.aliases import Decision
from tasks.registry.gate import champion_test, pending_approvals, promotion_checks
from tasks.registry.model_registry import CHAMPION, Registry, Version


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
    number = registry.aliases(version.model).get(alias)
    champion = None if number is None else registry.get(version.model, number)
    figures: dict = {}
    for kind, check in _checks(registry, version, champion, rules, policy, figures):
        reasons = check()
        if reasons:
            return Decision(version.model, version.number, alias, policy, False, tuple(reasons), number, figures,
                            figures.pop("kind", kind))  # fmt: skip
    return Decision(version.model, version.number, alias, policy, True, (), number, figures)


def _checks(registry: Registry, version: Version, champion: Version | None, rules: Register, policy: str,
            figures: dict) -> Iterator[tuple[str, Callable[[], list[str]]]]:  # fmt: skip
    """The kind of refusal and the check, in the order in which they are made."""
    yield "policy", partial(_by_policy, version, champion, policy)
    yield "floors", partial(_floors, version.provenance.results.get("floors", {}), rules, figures)
    if policy == "first":
        return
    if policy != "gated":
        raise FewstepError(f"unknown promotion policy {policy!r}: it is never, first or gated")
    yield "evaluation", partial(promotion_checks.incomplete, version)
    yield "artifact", partial(promotion_checks.altered, registry, version)
    if champion is not None:
        yield "identical", partial(promotion_checks.same_model, registry, version, champion)
        yield "protocol", partial(promotion_checks.other_protocol, version, champion)
    yield "lineage", partial(promotion_checks.without_lineage, registry, version)
    yield "dvc", partial(promotion_checks.unknown_to_dvc, registry, version)
    yield "unsound", partial(promotion_checks.unsound, registry, version)
    if champion is not None:
        yield "contest", partial(_contest, registry, version, champion, rules, figures)


def _by_policy(version: Version, champion: Version | None, policy: str) -> list[str]:
    if policy == "never":
        return ["register.promote is never"]
    if champion is not None and champion.number == version.number:
        return [f"{version.name} is the champion already"]
    if policy == "first" and champion is not None:
        return [f"there is a champion ({champion.name}) and register.promote is first; "
                f"`fewstep promote {version.model}/{version.number}` compares the two"]  # fmt: skip
    return []


def _floors(measured: dict, rules: Register, figures: dict) -> list[str]:
    reasons, found = promotion_checks.check_floors(measured, rules.floors.model_dump())
    figures["floors"] = {**figures.get("floors", {}), **found}
    return reasons


def _contest(registry: Registry, version: Version, champion: Version, rules: Register, figures: dict) -> list[str]:
    """Both evaluated afresh: the floors of what was measured, then the judgement."""
    try:
        outcome = champion_test.hold(registry, version, champion, rules.gate, rules.samples)
    except NonFinite as error:
        figures["kind"] = "unsound"
        return [str(error)]
    figures["contest"] = outcome.figures
    missed = _floors({**figures["floors"], **outcome.floors}, rules, figures)
    if missed or outcome.kind:
        figures["kind"] = "floors" if missed else outcome.kind
    return missed or outcome.reasons

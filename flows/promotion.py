"""The promotion flow: which version is live is decided by tasks.gate; Prefect shows and records that it was asked."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(name="gate", task_run_name="gate {reference}", cache_policy=NO_CACHE, persist_result=False)
def gate(root: str, reference: str, to: str, mode: str, why: str, who: str | None) -> dict:
    """Lineage, floors, the contest with the champion and, if all hold, what `mode` says."""
    from tasks import gate, notices
    from tasks import settings as settings_module
    from tasks.registry import CANDIDATE, Registry
    from tasks.workspace import Workspace

    workspace = Workspace.find(root)
    rules = settings_module.load(workspace.params).register
    registry = Registry(workspace)
    version = registry.resolve(reference, default=CANDIDATE)
    if mode == "dry-run":
        return gate.assess(registry, version, rules, policy="gated", alias=to).to_dict()
    if mode == "approve":
        decision = gate.propose(registry, version, rules, alias=to, why=why, who=who)
    else:
        decision = gate.promote(registry, version, rules, policy="gated", alias=to, why=why, who=who)
    notices.deliver(registry, version.model)
    return decision.to_dict()


@flow(name="fewstep-promotion", flow_run_name="{mode} {reference}", persist_result=False, result_serializer="json",
      validate_parameters=False)
def promotion(root: str, reference: str, to: str = "champion", mode: str = "promote", why: str = "",
              who: str | None = None) -> dict:
    """Decides about `reference` (NAME, NAME@ALIAS, NAME/VERSION) in the checkout at `root`; returns the decision.

    `mode`: `promote` moves the alias or records the refusal, `approve` leaves what would be promoted waiting for a
    person, `dry-run` writes nothing.
    """
    decision = gate(root, reference, to, mode, why, who)
    if mode != "dry-run":
        _tell(root, decision["model"])
    return decision


def _tell(root: str, model: str) -> None:
    from flows.decisions import emit
    from tasks.promotion import history
    from tasks.registry import Registry
    from tasks.workspace import Workspace

    entries = history(Registry(Workspace.find(root)), model)
    if entries:
        emit(model, entries[-1])

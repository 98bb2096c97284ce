"""The promotion flow: which version is live is decided by tasks.registry.gate.promotion_gate; Prefect shows and records that it was asked."""

from __future__ import annotations

import os

from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(name="gate", task_run_name="gate {reference}", cache_policy=NO_CACHE, persist_result=False)
def gate(root: str, reference: str, to: str, mode: str, why: str, who: str | None, store: str | None) -> dict:
    """Lineage, floors, the contest with the champion and, if all hold, what `mode` says."""
    from tasks.config import params_file
    from tasks.registry import copy_version, webhooks
    from tasks.registry.gate import promotion_gate
    from tasks.registry.model_registry import CANDIDATE, Registry
    from tasks.storage.workspace import Workspace

    workspace = Workspace.find(root)
    rules = params_file.load(workspace.params).register
    registry = Registry(workspace)
    version = registry.resolve(reference, default=CANDIDATE)
    if store is not None:
        source, registry = registry, copy_version.open_store(workspace, os.environ[store])
        version = copy_version.copy(source, version, registry)
    if mode == "dry-run":
        return promotion_gate.assess(registry, version, rules, policy="gated", alias=to).to_dict()
    if mode == "approve":
        decision = promotion_gate.propose(registry, version, rules, alias=to, why=why, who=who)
    else:
        decision = promotion_gate.promote(registry, version, rules, policy="gated", alias=to, why=why, who=who)
    webhooks.deliver(registry, version.model)
    return decision.to_dict()


@flow(name="fewstep-promotion", flow_run_name="{mode} {reference}", persist_result=False, result_serializer="json",
      validate_parameters=False)
def promotion(root: str, reference: str, to: str = "champion", mode: str = "promote", why: str = "",
              who: str | None = None, store: str | None = None) -> dict:
    """Decides about `reference` (NAME, NAME@ALIAS, NAME/VERSION) in the checkout at `root`; returns the decision.

    `mode`: `promote` moves the alias or records the refusal, `approve` leaves what would be promoted waiting for a
    person, `dry-run` writes nothing. `store` names the environment variable that holds the address of another store,
    into whose registry the version is copied first (Prefect keeps parameters in its database, and the address may hold
    a secret).
    """
    decision = gate(root, reference, to, mode, why, who, store)
    if mode != "dry-run":
        _tell(root, decision["model"], store)
    if decision["pending"] and store is None:
        from flows.orchestration.approval_flow import ask

        decision["run"] = ask(root, decision["pending"], f"{decision['model']}/{decision['version']}")
    return decision


def _tell(root: str, model: str, store: str | None) -> None:
    from flows.orchestration.decisions import emit, registry_of
    from tasks.registry.aliases import history
    from tasks.storage.workspace import Workspace

    entries = history(registry_of(Workspace.find(root), store and os.environ[store]), model)
    if entries:
        emit(model, entries[-1])

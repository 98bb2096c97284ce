"""The promotion flow: which version is live is decided by tasks.gate; Prefect shows and records that it was asked."""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(name="gate", task_run_name="gate {reference}", cache_policy=NO_CACHE, persist_result=False)
def gate(root: str, reference: str, to: str, why: str, who: str | None) -> dict:
    """Lineage, floors, the paired test against the champion and, if all hold, the move of the alias."""
    from tasks import settings as settings_module
    from tasks.gate import promote
    from tasks.registry import CANDIDATE, Registry
    from tasks.workspace import Workspace

    workspace = Workspace.find(root)
    register = settings_module.load(workspace.params).register
    registry = Registry(workspace)
    version = registry.resolve(reference, default=CANDIDATE)
    return promote(registry, version, policy="gated", floors=register.floors.model_dump(), samples=register.samples,
                   alias=to, why=why, who=who).to_dict()


@flow(name="fewstep-promotion", flow_run_name="promote {reference}", persist_result=False, result_serializer="json",
      validate_parameters=False)
def promotion(root: str, reference: str, to: str = "champion", why: str = "", who: str | None = None) -> dict:
    """Promotes `reference` (NAME, NAME@ALIAS, NAME/VERSION) in the checkout at `root`; returns the decision."""
    return gate(root, reference, to, why, who)

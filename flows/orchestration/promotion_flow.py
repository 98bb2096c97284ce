"""The promotion flow: tasks.registry.gate.promotion_gate decides which version is live, Prefect shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefect import flow, task

from flows.executors.prefect_tasks import IN_PROCESS
from flows.orchestration import approval_flow
from flows.orchestration.promotion_events import emit
from tasks.config import params_file
from tasks.registry import copy_version, webhooks
from tasks.registry.aliases import Decision, history
from tasks.registry.gate import promotion_gate
from tasks.registry.model_registry import CANDIDATE, Registry
from tasks.storage.workspace import Workspace
from tasks.tracking.redacted_logs import without_secrets

NAME = "fewstep-promotion"
Mode = Literal["promote", "approve", "dry-run"]


@dataclass
class Promotion:
    """One question whether a version may become `to`, as the functions of Prefect's flow and task.

    Attributes:
        workspace: the checkout whose params.yaml holds the rules.
        reference: NAME, NAME@ALIAS or NAME/VERSION.
        to: the alias to move.
        mode: `promote` moves the alias or records the refusal, `approve` leaves the decision waiting for a person,
            `dry-run` writes nothing.
        why: goes into the audit log.
        store: address of another MLflow store, into whose registry the version is copied first. It may hold a secret,
            so it is no argument of the flow: Prefect stores those in its database.
        flow_run: id of the suspended run on whose page a waiting decision can be answered.
    """

    workspace: Workspace
    reference: str
    to: str
    mode: Mode
    why: str = ""
    store: str | None = None
    flow_run: str | None = None

    def run(self) -> Decision:
        """Runs the flow and returns the decision."""
        decide = flow(self.decide, name=NAME, flow_run_name="{mode} {reference}", persist_result=False,
                      validate_parameters=False)
        return decide(self.reference, self.to, self.mode)

    def decide(self, reference: str, to: str, mode: str) -> Decision:
        """Prefect's flow: decides, tells of it, and asks for an answer where a person has the last word."""
        gate = task(self.gate, name="gate", task_run_name="gate {reference}", **IN_PROCESS)
        registry, decision = gate(reference)
        if mode != "dry-run":
            entries = history(registry, decision.model)
            if entries:
                emit(decision.model, entries[-1])
        if decision.pending and self.store is None:
            self.flow_run = approval_flow.ask(self.workspace, decision.pending,
                                              f"{decision.model}/{decision.version}")
        return decision

    @without_secrets()
    def gate(self, reference: str) -> tuple[Registry, Decision]:
        """Lineage, floors, the test against the champion and, if all hold, what `mode` says. Returns the registry that
        was decided in, too."""
        rules = params_file.load(self.workspace.params).register
        registry = Registry(self.workspace)
        version = registry.resolve(reference, default=CANDIDATE)
        if self.store is not None:
            source, registry = registry, copy_version.open_store(self.workspace, self.store)
            version = copy_version.copy(source, version, registry)
        if self.mode == "dry-run":
            return registry, promotion_gate.assess(registry, version, rules, policy="gated", alias=self.to)
        if self.mode == "approve":
            decision = promotion_gate.propose(registry, version, rules, alias=self.to, why=self.why)
        else:
            decision = promotion_gate.promote(registry, version, rules, policy="gated", alias=self.to, why=self.why)
        webhooks.deliver(registry, version.model)
        return registry, decision

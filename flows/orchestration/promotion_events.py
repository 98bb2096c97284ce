"""Events about registered models on the Prefect server that this process talks to; automations there wait for them."""

from __future__ import annotations

from prefect.events import emit_event
from prefect.events.worker import EventsWorker

from tasks.registry.aliases import history
from tasks.registry.audit_log import Entry
from tasks.registry.model_registry import Registry
from tasks.registry.registration_result import RegistrationResult
from tasks.storage.workspace import Workspace


def emit(model: str, entry: Entry) -> None:
    """Sends the event of an `entry` of the audit log of `model`, and waits until it is sent.

    Its name is `fewstep.<event>` (promoted, refused, rolled-back, pending, rejected, expired, overtaken), its resource
    `fewstep.model.<registered model>` with the labels `fewstep.version` and `fewstep.alias`, its payload the entry.
    Automations depend on these: they do not change.
    """
    emit_event(event=f"fewstep.{entry.event.replace(' ', '-')}",
               resource={"prefect.resource.id": f"fewstep.model.{model}", "prefect.resource.name": model,
                         "fewstep.version": str(entry.to), "fewstep.alias": entry.alias},
               payload=entry.to_dict())
    EventsWorker.drain_all(timeout=5)


def emit_of_run(workspace: Workspace, registered: RegistrationResult) -> None:
    """The event of the decision about a version that a run registered, if there was a decision."""
    entries = history(Registry(workspace), registered.model)
    if entries and entries[-1].to == registered.version and entries[-1].event in ("promoted", "refused"):
        emit(registered.model, entries[-1])

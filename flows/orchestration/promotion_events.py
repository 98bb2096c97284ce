"""Events about registered models on a Prefect server, which automations there can wait for."""

from __future__ import annotations

import logging
import os

from flows.orchestration.child_server import answers
from flows.orchestration.prefect_api import prefect_environment, serving
from flows.runs.log_capture import logs_to
from tasks.registry.aliases import history
from tasks.registry.model_registry import Registry
from tasks.registry.registration_result import RegistrationResult
from tasks.storage.workspace import Workspace


def announce(workspace: Workspace, model: str, entry: dict) -> None:
    """Tells a permanent Prefect server, where one is known, of an `entry` of the audit log of `model`: sends an event,
    and ends the suspended run that asked for this decision.

    Telling is no part of the decision: a server that is away or refuses is passed over, with a line in the log.
    """
    serve = serving(workspace)
    address = os.environ.get("PREFECT_API_URL") or (serve and f"{serve.url}/api")
    if not address or not answers(address.rstrip("/") + "/health"):
        return
    os.environ.update(prefect_environment(workspace, address))
    with logs_to(workspace.shared / "logs" / "promotion.log"):
        try:
            from flows.orchestration.approval_flow import settle  # Prefect reads the environment when it is imported

            emit(model, entry)
            if "closes" in entry:
                settle(entry["closes"], f"{entry['event']} by {entry['who']}")
        except Exception:
            logging.getLogger("prefect").exception("Prefect was not told of %s", entry["event"])


def emit(model: str, entry: dict) -> None:
    """Sends the event to the server that this process talks to, and waits until it is sent.

    Its name is `fewstep.<event>` (promoted, refused, rolled-back, pending, rejected, expired, overtaken), its resource
    `fewstep.model.<registered model>` with the labels `fewstep.version` and `fewstep.alias`, its payload the entry of
    the audit log. Automations depend on these: they do not change.
    """
    from prefect.events import emit_event  # Prefect reads the environment when it is imported
    from prefect.events.worker import EventsWorker

    emit_event(event=f"fewstep.{entry['event'].replace(' ', '-')}",
               resource={"prefect.resource.id": f"fewstep.model.{model}", "prefect.resource.name": model,
                         "fewstep.version": str(entry["to"]), "fewstep.alias": entry["alias"]},
               payload=entry)
    EventsWorker.drain_all(timeout=5)


def emit_of_run(workspace: Workspace, registered: RegistrationResult) -> None:
    """The event of the decision about a version that a run registered, if there was a decision."""
    entries = history(Registry(workspace), registered.model)
    if entries and entries[-1]["to"] == registered.version and entries[-1]["event"] in ("promoted", "refused"):
        emit(registered.model, entries[-1])

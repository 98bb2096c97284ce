"""Tells a permanent Prefect server of a decision that was made outside Prefect, by `fewstep approve` or `rollback`."""

from __future__ import annotations

import logging
import os

from flows.orchestration.child_server import answers
from flows.orchestration.own_server_environment import reach_loopback
from flows.orchestration.prefect_api import adopt, prefect_environment, serving
from flows.runs.log_capture import logs_to
from tasks.registry.audit_log import Entry
from tasks.storage.workspace import Workspace


def announce(workspace: Workspace, model: str, entry: Entry) -> None:
    """Sends the event of an `entry` of the audit log of `model`; ends the suspended run that asked for this decision.

    Telling is no part of the decision: a server that is away or refuses is passed over, with a line in the log.
    """
    serve = serving(workspace)
    reach_loopback(os.environ)
    address = os.environ.get("PREFECT_API_URL") or (serve and f"{serve.url}/api")
    if not address or not answers(address.rstrip("/") + "/health"):
        return
    token = serve.token if serve and serve.is_at(address) else None
    adopt(prefect_environment(workspace, address, token))
    with logs_to(workspace.shared / "logs" / "promotion.log"):
        try:
            from flows.orchestration.approval_flow import settle  # Prefect reads its environment on import
            from flows.orchestration.promotion_events import emit

            emit(model, entry)
            if entry.closes:
                settle(entry.closes, f"{entry.event} by {entry.who}")
        except Exception:
            logging.getLogger("prefect").exception("Prefect was not told of %s", entry.event)

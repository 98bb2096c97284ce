"""Events of the registry for others: every entry of an audit log goes to a webhook, in order, at least once.

The address comes from FEWSTEP_WEBHOOK, as it may hold a secret; FEWSTEP_WEBHOOK_SECRET, where it is set, signs the body
(X-Fewstep-Signature: sha256=<HMAC>). The number of entries that were delivered stands beside the log, so that an absent
receiver delays events and loses none: the next command sends the rest. `id` and `event` tell repeats apart.

MLflow's registry webhooks (experimental in 3.17) and Prefect's automations do not replace this: both are sent by their
servers, which a checkout with embedded databases does not run; MLflow's know nothing of refusals, of waiting decisions,
or of who, why and the figures; an event that Prefect's server is not there to hear is lost.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import urllib.error
import urllib.request
import warnings
from typing import Any

from fewstep.util.errors import SettingsError
from tasks.registry.model_registry import Registry
from tasks.storage.locks import held
from tasks.tracking.redaction import redact

ADDRESS, KEY = "FEWSTEP_WEBHOOK", "FEWSTEP_WEBHOOK_SECRET"
_SECONDS = 10


def deliver(registry: Registry, model: str) -> int:
    """Sends the entries of `model` that were not delivered yet; returns their number.

    Stops with a warning at a receiver that is away or refuses. Without an address nothing is sent, and entries of that
    time are not sent later, unless other hosts share the record: one of them may have an address. Raises SettingsError
    for an address that is neither http nor https.
    """
    address, folder = os.environ.get(ADDRESS), registry.folder / model
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / "delivery.lock"):  # not the model's lock: no command waits for a slow receiver
        record = registry.record(model)
        if not address:
            record.pass_over()
            return 0
        if not address.startswith(("http://", "https://")):
            raise SettingsError(f"{ADDRESS}: expected an http or https address")
        first, sent = record.delivered(), 0
        for position, entry in enumerate(record.read()[first:], first + 1):
            if entry.event != "intent":
                problem = _post(address, {"model": model, **entry.to_dict()})
                if problem:
                    warnings.warn(f"{ADDRESS}: {redact(problem)}; sent again by the next command", stacklevel=2)
                    return sent
                sent += 1
            record.note_delivered(position)
    return sent


def _post(address: str, event: dict[str, Any]) -> str | None:
    """None when the receiver took the event, else the reason."""
    body = json.dumps(event, sort_keys=True).encode()
    headers = {"Content-Type": "application/json", "X-Fewstep-Event": event["event"]}
    if os.environ.get(KEY):
        signature = hmac.new(os.environ[KEY].encode(), body, hashlib.sha256).hexdigest()
        headers["X-Fewstep-Signature"] = f"sha256={signature}"
    try:
        request = urllib.request.Request(address, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=_SECONDS):
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"the receiver did not take an event ({error})"

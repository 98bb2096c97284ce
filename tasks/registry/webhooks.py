"""Events of the registry for others: every entry of an audit log goes to a webhook, in order, at least once.

The address comes from FEWSTEP_WEBHOOK, as it may hold a secret; FEWSTEP_WEBHOOK_SECRET, where it is set, signs the body
(X-Fewstep-Signature: sha256=<HMAC>). The number of entries that were delivered stands in a file beside the log, so that
an absent receiver delays events and loses none: the next command sends the rest. `id` and `event` tell repeats apart.

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
from pathlib import Path
from typing import Any

from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.files import write_atomically
from tasks.registry import audit_log
from tasks.registry.model_registry import Registry
from tasks.storage.locks import held
from tasks.tracking.redaction import redact

ADDRESS, KEY = "FEWSTEP_WEBHOOK", "FEWSTEP_WEBHOOK_SECRET"
_SECONDS = 10
_CURSOR = "delivered"


def _delivered(cursor: Path, most: int) -> int:
    """How many entries were delivered. Raises CorruptData for a file that tells no such number."""
    try:
        count = int(cursor.read_bytes())
    except FileNotFoundError:
        return 0
    except ValueError:
        count = -1
    if not 0 <= count <= most:
        raise CorruptData(f"{cursor}: no number of delivered entries, 0 to {most}",
                          hint="write the number of lines of the record that were delivered into it")
    return count


def deliver(registry: Registry, model: str) -> int:
    """Sends the entries of `model` that were not delivered yet; returns their number.

    Stops with a warning at a receiver that is away or refuses. Without an address nothing is sent, and entries of that
    time are not sent later. Raises SettingsError for an address that is neither http nor https.
    """
    address, folder = os.environ.get(ADDRESS), registry.folder / model
    if not (folder / audit_log.NAME).exists():
        return 0
    with held(folder / "delivery.lock"):  # not the model's lock: no command waits for a slow receiver
        entries = audit_log.read(folder)
        cursor = folder / _CURSOR
        first = _delivered(cursor, len(entries))
        if not address:
            if first != len(entries):
                write_atomically(cursor, str(len(entries)))
            return 0
        if not address.startswith(("http://", "https://")):
            raise SettingsError(f"{ADDRESS}: expected an http or https address")
        sent = 0
        for position, entry in enumerate(entries[first:], first + 1):
            if entry.event != "intent":
                problem = _post(address, {"model": model, **entry.to_dict()})
                if problem:
                    warnings.warn(f"{ADDRESS}: {redact(problem)}; sent again by the next command", stacklevel=2)
                    return sent
                sent += 1
            write_atomically(cursor, str(position))
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

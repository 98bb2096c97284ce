"""Registry events for others: every entry of a record goes to a webhook, in order, at least once.

The address comes from FEWSTEP_WEBHOOK, as it may hold a secret; FEWSTEP_WEBHOOK_SECRET, where it is set, signs the body
(X-Fewstep-Signature: sha256=<HMAC>). What has been delivered stands in a file beside the record, so that an absent
receiver delays events and loses none: the next command sends what is left. `id` and `event` tell repeats apart.
"""

import hashlib
import hmac
import json
import os
import urllib.error
import urllib.request
import warnings

from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically
from tasks.registry import audit_log
from tasks.registry.model_registry import Registry
from tasks.storage.locks import held
from tasks.tracking.redaction import redact

ADDRESS, KEY = "FEWSTEP_WEBHOOK", "FEWSTEP_WEBHOOK_SECRET"
_SECONDS = 10
_CURSOR = "delivered"


def deliver(registry: Registry, model: str) -> int:
    """Sends the entries of `model` that were not delivered yet; returns their number.

    A receiver that is away or refuses ends it with a warning. Without an address nothing is sent, and what happens
    meanwhile is not sent later. Raises SettingsError for an address that is neither http nor https.
    """
    address, folder = os.environ.get(ADDRESS), registry.folder / model
    if not (folder / audit_log.NAME).exists():
        return 0
    with held(folder / "delivery.lock"):  # not the model's own: nobody waits for a slow receiver
        entries = audit_log.read(folder)
        cursor = folder / _CURSOR
        first = int(cursor.read_text()) if cursor.exists() else 0
        if not address:
            if first != len(entries):
                write_atomically(cursor, str(len(entries)))
            return 0
        if not address.startswith(("http://", "https://")):
            raise SettingsError(f"{ADDRESS}: expected an http or https address")
        sent = 0
        for position in range(first, len(entries)):
            if entries[position]["event"] != "intent":
                problem = _post(address, {"model": model, **entries[position]})
                if problem:
                    warnings.warn(f"{ADDRESS}: {redact(problem)}; sent again by the next command", stacklevel=2)
                    return sent
                sent += 1
            write_atomically(cursor, str(position + 1))
    return sent


def _post(address: str, event: dict) -> str | None:
    """None when the receiver took it, else what went wrong."""
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

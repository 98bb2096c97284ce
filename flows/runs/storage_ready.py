"""The start of every run: the store behind DVC's remote takes what the run will do there, or nothing begins."""

from __future__ import annotations

from fewstep.util.errors import NotAvailable
from flows.output import console, say
from tasks.storage.storage_check import try_storage
from tasks.storage.workspace import Workspace


def require_storage(workspace: Workspace) -> None:
    """Raises SettingsError where the store refuses (a wrong secret, a key that may only read, no such bucket).

    One that does not answer stops nothing: that is said on stderr, and what is made stays on this disk for now.
    """
    try:
        try_storage(workspace)
    except NotAvailable as error:
        say(console(stderr=True), f"warning: the DVC remote does not answer, what is made stays here for now: {error}")

"""Copying to DVC's remote through a network that comes and goes.

DVC's errors do not tell a network that broke from a right that is missing, so after one the store itself is asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import tenacity

from fewstep.util.errors import DiskFull, FewstepError, SettingsError
from tasks.storage.storage_check import try_storage
from tasks.storage.workspace import Workspace

T = TypeVar("T")
ATTEMPTS = 6            # with pauses of 1, 2, 4, 8 and 16 seconds: a store that restarts is waited for
LONGEST_PAUSE = 16.0    # seconds


def sent(workspace: Workspace, send: Callable[[], T]) -> T:
    """What `send` returns, which copies to DVC's default remote; tried again while that is an object store that may
    answer the next time.

    Raises:
        SettingsError: the store refuses.
        NotAvailable: it does not answer.
        FewstepError: it takes what is tried, and `send` fails all the same; or the remote is a folder.
    """
    def once() -> T:
        try:
            return send()
        except (DiskFull, SettingsError):
            raise
        except FewstepError as error:
            if try_storage(workspace) is None:
                raise _Final(error) from error
            raise

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(int(os.environ.get("FEWSTEP_PUSH_ATTEMPTS", ATTEMPTS))),
        wait=tenacity.wait_exponential(max=LONGEST_PAUSE), retry=tenacity.retry_if_exception(_may_pass), reraise=True)
    try:
        return retrying(once)
    except _Final as final:
        raise final.error from None


class _Final(Exception):
    """Carries an error that trying again will not cure."""

    def __init__(self, error: FewstepError):
        self.error = error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, FewstepError) and not isinstance(error, (DiskFull, SettingsError))

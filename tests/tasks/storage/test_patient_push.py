"""A copy to DVC's remote is tried again while the store may answer the next time, and only then."""

import pytest
import tenacity

from fewstep.util.errors import DiskFull, FewstepError, NotAvailable, SettingsError
from tasks.storage import patient_push
from tasks.storage.workspace import Workspace

URL = "s3://fewstep/x"


@pytest.fixture
def send(tmp_path, monkeypatch):
    """Calls `sent` with a copy that meets the given errors in turn, to a store that is in the given states."""
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("FEWSTEP_PUSH_ATTEMPTS", "3")

    def call(errors, states):
        errors, states, tries = list(errors), list(states), []

        def try_storage(workspace):
            state = states.pop(0)
            if isinstance(state, Exception):
                raise state
            return state

        def copy():
            tries.append(1)
            if errors:
                raise errors.pop(0)
            return 7

        monkeypatch.setattr(patient_push, "try_storage", try_storage)
        try:
            return patient_push.sent(Workspace(tmp_path), copy), len(tries)
        except FewstepError as error:
            return error, len(tries)

    return call


BROKEN, AWAY = FewstepError("DVC: 3 files failed to upload"), NotAvailable("no answer")


def test_a_store_that_comes_back_costs_nothing(send):
    assert send([], []) == (7, 1)
    assert send([BROKEN, BROKEN], [AWAY, URL]) == (7, 3)


def test_what_stays_so_is_raised_as_what_it_is(send):
    assert send([BROKEN] * 3, [AWAY] * 3) == (AWAY, 3)
    assert send([BROKEN] * 3, [AWAY, URL, URL]) == (BROKEN, 3)      # the store takes all: it is not the network


def test_what_no_time_will_mend_is_raised_at_once(send):
    refused, full = SettingsError("the secret is wrong"), DiskFull("full")
    assert send([BROKEN], [refused]) == (refused, 1)
    assert send([full], []) == (full, 1)
    assert send([BROKEN], [None]) == (BROKEN, 1)        # a folder, or none

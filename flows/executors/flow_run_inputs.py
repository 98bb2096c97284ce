"""Messages to a flow run and from it, kept by the Prefect server as its inputs: whoever reaches the server can read
them, wherever it is, and nothing else need be open between hosts."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError

_AT_ONCE = 50


class Inputs:
    """One direction of messages of a flow run: each is read once, in the order in which they were written.

    Args:
        name: of the direction, letters alone. One process writes it, and one reads it.
    """

    def __init__(self, client: SyncPrefectClient, flow_run: UUID, name: str):
        self._client, self._flow_run, self._name, self._written = client, flow_run, name, 0

    def write(self, text: str) -> None:
        """Add a message."""
        self._written += 1
        try:
            self._client.create_flow_run_input(self._flow_run, f"{self._name}-{self._written:09d}", text)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:   # a retry after an answer that was lost: it is there
                raise

    def read(self) -> list[str]:
        """The messages since the last time."""
        found = self._client.filter_flow_run_input(self._flow_run, f"{self._name}-", _AT_ONCE, set())
        found.sort(key=lambda one: one.key)
        for one in found:
            self._client.delete_flow_run_input(self._flow_run, one.key)
        return [one.value for one in found]

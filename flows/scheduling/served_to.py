"""The Prefect server that `fewstep serve` serves deployments to: its own, or one that other hosts use too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class ServedTo:
    """A Prefect server as its deployments are served.

    Attributes:
        url: of its pages.
        token: what one of our own must be told (flows.orchestration.page_guard).
        said: to the person who serves.
        require_alive: raises FewstepError when it is gone for good.
        suffix: of the names of schedules' deployments: where hosts share a server, theirs are kept apart by it.
    """

    url: str
    token: str | None
    said: str
    require_alive: Callable[[], None] = lambda: None
    suffix: str = ""

    def name(self, schedule: str) -> str:
        """Of the deployment of a schedule."""
        return schedule + self.suffix

    def is_ours(self, deployment: str) -> bool:
        """Whether the deployment of this name, of a schedule, can only be this checkout's."""
        return deployment.endswith(self.suffix)

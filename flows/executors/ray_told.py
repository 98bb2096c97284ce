"""What processes of a Ray cluster tell the run, by an actor beside it, and what is asked of Ray about them."""

from __future__ import annotations

import collections
from typing import Any


class Ear:
    """An actor beside the run: keeps what is told until the run asks."""

    def __init__(self):
        self._events: dict[str, list[dict]] = collections.defaultdict(list)

    def tell(self, call: str, event: dict[str, Any]) -> None:
        self._events[call].append(event)

    def take(self, call: str) -> list[dict[str, Any]]:
        """What was told since it was last asked."""
        return self._events.pop(call, [])


class Telling:
    """Tells an ear what happens in a call, but for how it ended, which is what the call returns."""

    def __init__(self, ear: Any, call: str):
        self._ear, self._call = ear, call
        self._told, self._end = [], {}

    def __call__(self, event: dict[str, Any]) -> None:
        if "done" in event or "error" in event:
            self._end.update(event)
        else:
            self._told.append(self._ear.tell.remote(self._call, event))

    def end(self) -> dict[str, Any]:
        """How it ended; all before it has arrived."""
        import ray

        ray.get(self._told)
        return self._end


def is_alive(node: str) -> bool:
    """Whether the cluster hears of the node. That one fell silent Ray tells who waits for its tasks after seven minutes
    alone."""
    import ray

    return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())


def first_line(error: Exception) -> str:
    """What Ray says, without where; of a traceback that it passes on the last line too."""
    first, *more = str(error).strip().splitlines()
    return f"{first} {more[-1].strip()}" if more and first.endswith(":") else first

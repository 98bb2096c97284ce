"""How fast a stage goes, from its reports of progress."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 30.0           # seconds over which the rate is taken


class Rate:
    """Progress per second over the last WINDOW seconds (but at least the last two reports), and the time that is left
    at that rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.points: deque[tuple[float, int]] = deque()

    def add(self, done: int) -> None:
        """Notes a report of progress."""
        now = self.clock()
        if self.points and done < self.points[-1][1]:
            self.points.clear()     # a new round or attempt counts from the beginning
        self.points.append((now, done))
        while len(self.points) > 2 and now - self.points[0][0] > WINDOW:
            self.points.popleft()

    def per_second(self) -> float | None:
        """None until something has moved."""
        if len(self.points) < 2:
            return None
        (start, first), (end, last) = self.points[0], self.points[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    def left(self, total: int) -> float | None:
        """Seconds until `total`, counted from the last report; None while there is no rate."""
        per_second = self.per_second()
        if per_second is None:
            return None
        return max(0.0, (total - self.points[-1][1]) / per_second - (self.clock() - self.points[-1][0]))

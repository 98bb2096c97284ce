"""Metrics on their way to MLflow, kept in a file until MLflow has them.

A training loop that is killed between two deliveries would otherwise lose the points since the last delivery: its
checkpoint may lie after them, so they are never computed again. An appended line survives SIGKILL of the process, and
a server that is away for an hour costs nothing but the delay.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from fewstep.util.errors import CorruptData
from fewstep.util.files import write_atomically
from fewstep.util.plain_data import NotPlain, from_json


class Point(NamedTuple):
    """One value of one metric: `step` counts images, `time` is in milliseconds since 1970."""

    name: str
    value: float
    step: int
    time: int


class MetricBuffer:
    """An append-only file of points that wait for delivery. Not thread-safe: its owner holds a lock."""

    def __init__(self, path: Path):
        self.path = path
        self.points: list[Point] = _read(path) if path.exists() else []
        if self.points:
            self._rewrite()  # without the torn line that a kill may have left

    def append(self, points: list[Point]) -> None:
        """Adds `points` to the file, then to the list."""
        if not points:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_lines(points))
        self.points.extend(points)

    def delivered(self, count: int) -> None:
        """Removes the first `count` points. A kill before this only makes the next start offer them again."""
        self.points = self.points[count:]
        self._rewrite()

    def close(self) -> None:
        """Removes the file when nothing waits in it."""
        if not self.points:
            self.path.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        if self.points:
            write_atomically(self.path, _lines(self.points))
        else:
            self.path.unlink(missing_ok=True)


def _lines(points: list[Point]) -> str:
    return "".join(json.dumps(point) + "\n" for point in points)


def _read(path: Path) -> list[Point]:
    points = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break  # torn by a kill: the point is replayed or the value was the last before the checkpoint
        points.append(_point(line, f"{path}, line {len(points) + 1}"))
    return points


def _point(line: bytes, where: str) -> Point:
    try:
        point = Point(*from_json(line))
    except (NotPlain, TypeError):
        point = None
    kinds = (str, (int, float), int, int)
    if point is None or not all(isinstance(value, kind) and not isinstance(value, bool)
                                for value, kind in zip(point, kinds, strict=True)):  # fmt: skip
        raise CorruptData(f"{where}: no point of a metric", hint="remove the line; its point is lost")
    return point._replace(value=float(point.value))


def metric_name(name: str) -> str:
    """`name` with `_` for every character that MLflow does not take (letters, digits, blanks and `_ - . / :`)."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)


def numbers(values: dict, prefix: str = "") -> dict[str, float]:
    """The numbers of a nested dictionary as metrics, such as `{"student/4/kid": 0.01}`; everything else is left out."""
    metrics: dict[str, float] = {}
    for key, value in values.items():
        name = metric_name(f"{prefix}{key}")
        if isinstance(value, dict):
            metrics.update(numbers(value, name + "/"))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            metrics[name] = float(value)
    return metrics

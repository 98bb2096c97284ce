"""Plots as inline SVG that prints sharply and follows the page's colours.

Drawn here and not by matplotlib, whose SVG has every colour in a style attribute of its own (120 a plot) and no element
per point: it follows neither the dark theme nor the pointer, cannot hide a series, and is four times as large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 26, 14, 52
_MARKS = ("circle", "square", "up", "diamond", "down", "cross")


@dataclass(frozen=True)
class Point:
    """One value with its interval (None: none) and what a reader is told of it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Points joined by a line. `tone` names a colour of the page's style (`m0` … for models, `s0` … for solvers)."""

    name: str
    points: list[Point]
    tone: str
    mark: int = 0
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """`kind`: linear, log, or counts (log with ticks at powers of two)."""

    title: str
    kind: str = "linear"


@dataclass(frozen=True)
class Band:
    """A horizontal line at y with its interval: a level to compare with."""

    name: str
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bracket:
    """At height y, from x = `start` a dashed line to `end`, and the range `low` … `high` of where it might end."""

    y: float
    start: float
    end: float
    low: float | None
    high: float | None
    text: str = ""


@dataclass
class _Scale:
    """Maps values to pixels."""

    low: float
    high: float
    first: float
    last: float
    log: bool
    ticks: list[float] = field(default_factory=list)

    def __call__(self, value: float) -> float:
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.first + (self.last - self.first) * (value - low) / (high - low)

    def holds(self, value: float) -> bool:
        return self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9) if self.log else self.low <= value <= self.high


def chart(series: list[Series], x: Axis, y: Axis, *, bands: list[Band] = (), brackets: list[Bracket] = (),
          label: str = "", marks: bool = True) -> str:  # fmt: skip
    """An SVG with the series' points, their intervals, lines between them, and horizontal bands.

    The y axis's title stands above the plot, where it is read on any screen; a logarithmic one becomes linear where a
    value is not positive. Points carry `data-t` (text for a tooltip) and `data-s` (the series' name).
    """
    points = [point for one in series for point in one.points]
    if not points:
        return '<p class="dim">Nothing to plot.</p>'
    across = _scale([p.x for p in points], x.kind, _LEFT, _WIDTH - _RIGHT, roomy=marks)
    heights = [p.y for p in points] + [band.y for band in bands]
    kind = y.kind if y.kind == "linear" or min(p.y for p in points) > 0 else "linear"
    if kind == "log":
        heights = [value for value in heights if value > 0]
        least = min(p.y for p in points) / 2
        heights += [max(p.low, least) for p in points if p.low is not None]
    else:
        heights += [p.low for p in points if p.low is not None]
    heights += [p.high for p in points if p.high is not None]
    up = _scale(heights, kind, _HEIGHT - _BOTTOM, _TOP, roomy=True)
    parts = [_frame(across, up, x, x.kind == "counts")]
    for band in bands:
        parts.append(_band(band, up))
    for bracket in brackets:
        parts.append(_bracket(bracket, across, up))
    middle = (len(series) - 1) / 2
    for i, one in enumerate(sorted(series, key=lambda one: one.strong)):
        shift = (i - middle) * 3 if marks and len(series) > 1 else 0.0
        parts.append(_series(one, across, up, shift, marks))
    spoken = escape(label or y.title, quote=True)
    return (f'<p class="axis-title">{escape(y.title)}</p><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{spoken}">{"".join(parts)}</svg>')  # fmt: skip


def _series(one: Series, across: _Scale, up: _Scale, shift: float, marks: bool) -> str:
    places = [(across(p.x) + shift, up(p.y)) for p in one.points]
    name = escape(one.name, quote=True)
    parts = [f'<g class="series {one.tone}{" strong" if one.strong else ""}" data-s="{name}">']
    if len(places) > 1:
        parts.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>')
    if marks:
        for point, (a, b) in zip(one.points, places, strict=True):
            if point.low is not None and point.high is not None:
                parts.append(f'<line class="bar" x1="{a:.1f}" x2="{a:.1f}" y1="{up(point.low):.1f}" '
                             f'y2="{up(point.high):.1f}"/>')  # fmt: skip
            parts.append(f'<g class="pt" tabindex="0" data-t="{escape(point.text, quote=True)}">'
                         f'<circle class="hit" cx="{a:.1f}" cy="{b:.1f}" r="11"/>'
                         f'{_mark(_MARKS[one.mark % len(_MARKS)], a, b, 6 if one.strong else 4)}</g>')  # fmt: skip
    return "".join([*parts, "</g>"])


def _mark(kind: str, a: float, b: float, r: float) -> str:
    if kind == "circle":
        return f'<circle class="mark" cx="{a:.1f}" cy="{b:.1f}" r="{r}"/>'
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)], "up": [(0, -1.3 * r), (1.2 * r, r), (-1.2 * r, r)],
        "diamond": [(0, -1.4 * r), (1.4 * r, 0), (0, 1.4 * r), (-1.4 * r, 0)],
        "down": [(0, 1.3 * r), (1.2 * r, -r), (-1.2 * r, -r)],
        "cross": [(-r, -r), (0, -0.4 * r), (r, -r), (0.4 * r, 0), (r, r), (0, 0.4 * r), (-r, r), (-0.4 * r, 0)],
    }[kind]  # fmt: skip
    return f'<polygon class="mark" points="{" ".join(f"{a + u:.1f},{b + v:.1f}" for u, v in corners)}"/>'


def _band(band: Band, up: _Scale) -> str:
    parts = []
    if band.low is not None and band.high is not None and (band.high > up.low):
        top, bottom = up(band.high), up(band.low)
        parts.append(f'<rect class="band" x="{_LEFT}" width="{_WIDTH - _LEFT - _RIGHT}" y="{top:.1f}" '
                     f'height="{max(bottom - top, 0.5):.1f}"/>')  # fmt: skip
    if up.holds(band.y):
        level = up(band.y)
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>'
                     f'<text class="note" x="{_WIDTH - _RIGHT - 4}" y="{level - 5:.1f}" text-anchor="end">'
                     f'{escape(band.name)}</text>')  # fmt: skip
    return "".join(parts)


def _bracket(one: Bracket, across: _Scale, up: _Scale) -> str:
    level, end = up(one.y), across(one.end)
    low = across(one.low) if one.low is not None else across.first
    high = across(one.high) if one.high is not None else across.last
    return (f'<g class="bracket" data-t="{escape(one.text, quote=True)}"><line class="range" x1="{low:.1f}" '
            f'x2="{high:.1f}" y1="{level:.1f}" y2="{level:.1f}"/><line class="dash" x1="{across(one.start):.1f}" '
            f'x2="{end:.1f}" y1="{level:.1f}" y2="{level:.1f}"/><line class="dash" x1="{end:.1f}" x2="{end:.1f}" '
            f'y1="{level:.1f}" y2="{_HEIGHT - _BOTTOM}"/></g>')  # fmt: skip


def _frame(across: _Scale, up: _Scale, x: Axis, counts: bool) -> str:
    bottom, parts = _HEIGHT - _BOTTOM, []
    for value in up.ticks:
        level = up(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>'
                     f'<text x="{_LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{short(value)}</text>')  # fmt: skip
    for value in across.ticks:
        place = across(value)
        parts.append(f'<line class="tick" x1="{place:.1f}" x2="{place:.1f}" y1="{bottom}" y2="{bottom + 5}"/>'
                     f'<text x="{place:.1f}" y="{bottom + 20}" text-anchor="middle">'
                     f'{int(value) if counts else short(value)}</text>')  # fmt: skip
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
                 f'<text class="title" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
                 f"{escape(x.title)}</text>")  # fmt: skip
    return f'<g class="frame">{"".join(parts)}</g>'


def short(value: float) -> str:
    """A tick's number: 0.05, 2, 1.5k, 3M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e−")


def _scale(values: list[float], kind: str, first: float, last: float, *, roomy: bool) -> _Scale:
    low, high = min(values), max(values)
    if kind in ("log", "counts"):
        room = 1.12 if roomy else 1.0
        low, high = low / room, high * room
        if high <= low * 1.01:
            low, high = low / 1.5, high * 1.5
        ticks = _powers_of_two(low, high) if kind == "counts" else _decades(low, high)
        return _Scale(low, high, first, last, True, ticks)
    span = (high - low) or abs(high) or 1.0
    room = 0.05 * span if roomy else 0.0
    low, high = (0.0 if 0 <= low < 0.25 * high else low - room), high + room
    return _Scale(low, high, first, last, False, _even(low, high))


def _powers_of_two(low: float, high: float) -> list[float]:
    return [2.0**k for k in range(0, 40) if low <= 2.0**k <= high]


def _decades(low: float, high: float) -> list[float]:
    wanted = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        wanted = [m * 10.0**k for k in range(-15, 16) for m in steps if low <= m * 10.0**k <= high]
        if len(wanted) <= 8:
            break
    return wanted if len(wanted) > 1 else _even(low, high)


def _even(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    found = [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return found

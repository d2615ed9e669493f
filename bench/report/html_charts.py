"""Charts as inline SVG: axes, marks whose shape tells as much as colour, labels that keep clear.

Colours are CSS classes (`report.css` has a light and a dark set); nothing here needs a script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from kspacesr_rt.bench.report.html_marks import MARK, mark

LETTER, LINE = 6.1, 13.0
"""Width and height in px that a label takes: 11 px sans serif, rounded up."""
READOUT = '<p class="readout" role="status">Point at a mark, or move to it with Tab.</p>'
"""Where `report.js` writes what a mark says."""
REACHES = (9, 16, 26, 38, 52)
"""Distances in px from a mark at which its label is tried; what fits nowhere is left to the legend
and to the mark's title."""
LEADER = 16
"""Beyond so many px a line leads to the label."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, px."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One direction of a chart."""

    label: str
    """Quantity and unit."""
    low: float
    high: float
    """Ends, in the quantity's unit."""
    log: bool = False
    at: tuple[float, ...] = ()
    """Where to write values; empty lets `ticks` choose."""

    def place(self, value: float) -> float:
        """Return where a value lies, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round values to write at the axis: three to nine of them."""
        if self.at:
            return list(self.at)
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)


def axis_over(
    values: Sequence[float], label: str, *, log: bool = False, least: float = 1e-6
) -> Axis:
    """Return an axis with room around the values; they must not be empty.

    Parameters
    ----------
    values
        In the quantity's unit; positive if `log`.
    label, log
        See `Axis`.
    least
        What a linear axis spans at least: differences below it say nothing.
    """
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.08, 1.25)
        return Axis(label=label, low=low / room, high=high * room, log=True)
    room = max((high - low) * 0.12, (least - (high - low)) / 2)
    return Axis(label=label, low=low - room, high=high + room)


def _ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    for times in (5, 2):
        if (high - low) / (step * times) >= 3:
            step *= times
            break
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        found = [n * 10.0**decade for decade in decades for n in leading]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            return found
    return found


def _roundness(value: float) -> int:
    """Return which ticks are written first where not all of them fit."""
    return "152".find(f"{value:e}"[0]) % 4


def figure(value: float) -> str:
    """Write a tick: no exponents, no digits that say nothing."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.10g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One mark."""

    x: float
    y: float
    text: str
    """What its title says: everything about it."""
    runtime: str = "ort-cpu"
    """Decides colour and shape."""
    hollow: bool = False
    """Outline only: the second model of a chart."""
    label: str = ""
    """Written beside it where there is room."""
    rank: int = 0
    """Labels with smaller ones find their place first."""


@dataclass(slots=True)
class Chart:
    """A drawing area with two axes; pieces are added in the order of drawing."""

    width: int
    height: int
    """Of the whole picture, px."""
    x: Axis
    y: Axis
    title: str
    """For readers who hear it."""
    left: int = 0
    """Room for the y axis; 0 makes as much as its values need."""
    bottom: int = 44
    top: int = 12
    right: int = 14
    parts: list[str] = field(default_factory=list)
    taken: list[Box] = field(default_factory=list)
    """What labels must not cover."""
    labels: list[Box] = field(default_factory=list)
    """Labels that lines must not cross."""

    def __post_init__(self) -> None:
        if not self.left:
            longest = max((len(figure(value)) for value in self.y.ticks()), default=1)
            self.left = round(34 + longest * LETTER)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return a value pair's place, px."""
        across = self.left + self.x.place(x) * (self.width - self.left - self.right)
        down = self.height - self.bottom
        return across, down - self.y.place(y) * (down - self.top)

    def axes(self) -> None:
        """Draw grid lines, ticks and the names of both axes."""
        floor, end = self.height - self.bottom, self.width - self.right
        written: list[tuple[float, float]] = []
        for value in sorted(self.x.ticks(), key=_roundness):
            across, _ = self.at(value, self.y.low)
            self._line("grid", across, self.top, across, floor)
            half = len(figure(value)) * LETTER / 2 + 3
            if all(across + half < low or across - half > high for low, high in written):
                self._text(figure(value), across, floor + 16, "middle")
                written.append((across - half, across + half))
        for value in self.y.ticks():
            _, down = self.at(self.x.low, value)
            self._line("grid", self.left, down, end, down)
            self._text(figure(value), self.left - 7, down + 4, "end")
        self._line("axis", self.left, floor, end, floor)
        self._text(self.x.label, (self.left + end) / 2, self.height - 6, "middle", "name")
        self._text(self.y.label, 12, (self.top + floor) / 2, "middle", "name", turned=True)

    def path(self, points: Sequence[tuple[float, float]], css: str) -> None:
        """Draw a line through value pairs; labels keep clear of it."""
        corners = [self.at(*one) for one in points]
        for (x0, y0), (x1, y1) in pairwise(corners):
            if x0 == x1 or y0 == y1:
                self._take(min(x0, x1) - 3, min(y0, y1) - 3, abs(x1 - x0) + 6, abs(y1 - y0) + 6)
                continue
            n = max(2, round(math.hypot(x1 - x0, y1 - y0) / 6))
            for i in range(n + 1):
                self._take(x0 + (x1 - x0) * i / n - 3, y0 + (y1 - y0) * i / n - 3, 6, 6)
        coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        self.parts.append(f'<polyline class="{css}" points="{coordinates}"/>')

    def marks(self, points: Sequence[Point]) -> None:
        """Draw marks, and as many of their labels as do not collide."""
        for point in points:
            across, down = self.at(point.x, point.y)
            self.taken.append((across - MARK, down - MARK, across + MARK, down + MARK))
        by_rank = sorted((point for point in points if point.label), key=lambda point: point.rank)
        labels = [piece for point in by_rank if (piece := self._label(point))]
        self.parts += labels
        for point in points:
            across, down = self.at(point.x, point.y)
            tooltip = escape(point.text, quote=True)
            self.parts.append(
                f'<g class="point" tabindex="0" role="img" aria-label="{tooltip}">'
                f"<title>{tooltip}</title>"
                f'<circle class="halo" cx="{across:.1f}" cy="{down:.1f}" r="{MARK + 5}"/>'
                f"{mark(point.runtime, across, down, hollow=point.hollow)}</g>"
            )

    def svg(self, css: str = "") -> str:
        """Return the picture."""
        return (
            f'<svg class="chart {css}" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="group" '
            f'aria-label="{escape(self.title, quote=True)}">{"".join(self.parts)}</svg>'
        )

    def _label(self, point: Point) -> str:
        across, down = self.at(point.x, point.y)
        width = len(point.label) * LETTER
        for reach in REACHES:
            for right, below in (
                (1, 0),
                (-1, 0),
                (0, -1),
                (0, 1),
                (1, -1),
                (-1, -1),
                (1, 1),
                (-1, 1),
            ):
                middle = across + right * (reach + width / 2), down + below * (reach + 2)
                box = (
                    middle[0] - width / 2,
                    middle[1] - LINE / 2,
                    middle[0] + width / 2,
                    middle[1] + LINE / 2,
                )
                if not self._free(box):
                    continue
                end = min(max(across, box[0]), box[2]), min(max(down, box[1] + 2), box[3] - 2)
                leader = ""
                if reach > LEADER:
                    steps = [
                        (across + (end[0] - across) * i / 8, down + (end[1] - down) * i / 8)
                        for i in range(1, 8)
                    ]
                    if any(_within(step, label) for step in steps for label in self.labels):
                        continue
                    self.taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in steps]
                    leader = (
                        f'<line class="leader" x1="{across:.1f}" y1="{down:.1f}" '
                        f'x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
                    )
                self.taken.append(box)
                self.labels.append(box)
                return (
                    f'{leader}<text class="label" x="{middle[0]:.1f}" y="{middle[1] + 4:.1f}" '
                    f'text-anchor="middle">{escape(point.label)}</text>'
                )
        return ""

    def _free(self, box: Box) -> bool:
        inside = (
            box[0] >= self.left + 2
            and box[2] <= self.width - 2
            and box[1] >= self.top
            and box[3] <= self.height - self.bottom - 2
        )
        return inside and not any(
            box[0] < other[2] + 2
            and box[2] > other[0] - 2
            and box[1] < other[3]
            and box[3] > other[1]
            for other in self.taken
        )

    def _take(self, x: float, y: float, width: float, height: float) -> None:
        self.taken.append((x, y, x + width, y + height))

    def _line(self, css: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.parts.append(
            f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
        )

    def _text(
        self, text: str, x: float, y: float, anchor: str, css: str = "tick", *, turned: bool = False
    ) -> None:
        turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        self.parts.append(
            f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>'
            f"{escape(text)}</text>"
        )


def _within(place: tuple[float, float], box: Box) -> bool:
    return box[0] < place[0] < box[2] and box[1] < place[1] < box[3]

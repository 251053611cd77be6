"""Geometry of the report's charts: plain numbers that the template draws. Positions are percentages of the plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_TICKS = 5
LABEL_CHARACTERS = 26
#: Values no further apart than this are shown as equal ones: what is smaller has no digits to mark ticks with.
NOTHING = 1e-300


#: The least and the largest value that there can be.
Limits = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high`."""

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Percentage of the way along; values outside are held at the ends."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 3)


def axis(
    values: Sequence[float], include: Sequence[float] = (), margin: float = 0.06, limits: Limits | None = None
) -> Axis:
    """An axis that shows all values (and those to include) with round ticks, and nothing beyond `limits`, which no
    value can exceed."""
    shown = [*values, *include]
    low, high = min(shown), max(shown)
    room = (high - low) * margin if high - low > NOTHING else max(abs(high) * 0.02, 1e-6)
    low, high = (low if low in include else low - room), (high if high in include and high != low else high + room)
    if limits is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    step = _round_step((high - low) / MAX_TICKS)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    places = [k * step for k in range(first, last + 1)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    empty = Axis(low, high, ())
    return Axis(low, high, tuple(Tick(empty.at(place), _label(place, digits)) for place in places))


def _round_step(step: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _label(value: float, digits: int) -> str:
    if value and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.0e}"
    return f"{value + 0.0:,.{digits}f}"


@dataclass(frozen=True)
class Whisker:
    """A row of an interval chart: `low`..`high` with a `point`, coloured by `tone`."""

    label: str
    low: float
    point: float
    high: float
    text: str
    tone: str
    limit: float | None = None


@dataclass(frozen=True)
class Intervals:
    """An interval chart with a zero line and perhaps a limit in each row."""

    axis: Axis
    zero: float
    rows: tuple[Whisker, ...]


def intervals(
    rows: Sequence[tuple[str, float, float, float, str]], limits: Sequence[float] | None = None
) -> Intervals | None:
    """Rows are (label, low, point, high, tone) in the unit shown, `limits` one per row; None without rows.

    A limit far beyond every interval is left out rather than squeezing the rest.
    """
    if not rows:
        return None
    ends = [value for row in rows for value in row[1:4]]
    reach = 3 * max(abs(end) for end in ends)
    shown = [limit if abs(limit) <= reach else None for limit in limits or ()] or [None] * len(rows)
    scale = axis([*ends, *(limit for limit in shown if limit is not None), 0.0])
    placed = tuple(
        Whisker(
            label,
            scale.at(low),
            scale.at(point),
            scale.at(high),
            f"{point:+.2f}",
            tone,
            None if limit is None else scale.at(limit),
        )
        for (label, low, point, high, tone), limit in zip(rows, shown, strict=True)
    )
    return Intervals(scale, scale.at(0.0), placed)


@dataclass(frozen=True)
class Pair:
    """A row of a bar chart with a bar inside the bar; `inner` is None where there is none."""

    label: str
    width: float
    inner: float | None
    text: str
    detail: str = ""


def pairs(rows: Sequence[tuple[str, float, float | None, str]]) -> list[Pair]:
    """Rows are (label, value >= 0, inner value >= 0, detail), in percent; widths relative to the largest."""
    largest = max((max(value, inner or 0.0) for _, value, inner, _ in rows), default=0.0) or 1.0

    def width(value: float) -> float:
        return round(100 * value / largest, 2)

    return [
        Pair(label, width(value), None if inner is None else width(inner), f"{value:.3g} %", detail)
        for label, value, inner, detail in rows
    ]


@dataclass(frozen=True)
class Dot:
    """A point of a scatter plot, with the place of its label."""

    label: str
    x: float
    y: float
    tone: str
    anchor: str
    label_dx: float
    label_dy: float


@dataclass(frozen=True)
class Scatter:
    """A scatter plot; `front` joins the points that no other point beats on both axes."""

    x: Axis
    y: Axis
    x_label: str
    y_label: str
    dots: tuple[Dot, ...]
    front: tuple[tuple[float, float], ...]


def scatter(
    points: Sequence[tuple[str, float, float, str]],
    x_label: str,
    y_label: str,
    higher_is_better: bool,
    y_limits: Limits | None = None,
) -> Scatter | None:
    """Points are (label, x: less is better, y, tone). None for fewer than two, which compare nothing."""
    if len(points) < 2:
        return None
    x_axis = axis([x for _, x, _, _ in points], include=(0.0,), margin=0.12)
    y_axis = axis([y for _, _, y, _ in points], margin=0.2, limits=y_limits)
    sign = 1 if higher_is_better else -1
    front = [
        (x, y)
        for _, x, y, _ in points
        if not any(a <= x and sign * b >= sign * y and (a, b) != (x, y) for _, a, b, _ in points)
    ]
    placed = [(label, x_axis.at(x), y_axis.at(y), tone) for label, x, y, tone in points]
    taken = [(at - 3, up - 4, at + 3, up + 4) for _, at, up, _ in placed]
    dots = []
    for label, at, up, tone in sorted(placed, key=lambda point: (point[2], point[1], point[0])):
        short = label if len(label) <= LABEL_CHARACTERS else label[: LABEL_CHARACTERS - 1] + "…"
        anchor, dx, dy, box = _free_place(short, at, up, taken)
        taken.append(box)
        dots.append(Dot(short, at, up, tone, anchor, dx, dy))
    ordered = tuple((x_axis.at(x), y_axis.at(y)) for x, y in sorted(set(front)))
    return Scatter(x_axis, y_axis, x_label, y_label, tuple(dots), ordered)


Box = tuple[float, float, float, float]


def _free_place(label: str, at: float, up: float, taken: Sequence[Box]) -> tuple[str, float, float, Box]:
    """(anchor, dx, dy, box) of a label beside, above or below its point, where it covers no other, if there is room."""
    width = 2.2 * len(label)
    places = []
    for dy in (0.0, 8.0, -8.0, 15.0, -15.0, 22.0, -22.0):
        for anchor, dx, low in (("start", 4.0, at + 4), ("end", -4.0, at - 4 - width), ("middle", 0.0, at - width / 2)):
            if dy == 0 and anchor == "middle":
                continue
            places.append((anchor, dx, dy, (low, up + dy - 4, low + width, up + dy + 4)))

    def covered(box: Box) -> int:
        return sum(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)

    inside = [place for place in places if _within(place[3])] or places
    return min(inside, key=lambda place: covered(place[3]))


def _within(box: Box) -> bool:
    """Whether a label stays clear of the numbers beside and below the plot."""
    return box[0] >= 0 and box[2] <= 103 and box[1] >= 0


@dataclass(frozen=True)
class Lines:
    """A line chart; every line is (name, points)."""

    title: str
    x: Axis
    y: Axis
    x_label: str
    y_label: str
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]


def lines(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    y_limits: Limits | None = None,
) -> Lines:
    """Series are (name, x values, y values), at least one with at least one point."""
    x_axis = axis([x for _, xs, _ in series for x in xs], margin=0.0)
    y_axis = axis([y for _, _, ys in series for y in ys], include=(0.0,), limits=y_limits)
    placed = tuple(
        (name, tuple((x_axis.at(x), y_axis.at(y)) for x, y in zip(xs, ys, strict=True))) for name, xs, ys in series
    )
    return Lines(title, x_axis, y_axis, x_label, y_label, placed)

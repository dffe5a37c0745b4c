"""Charts of a report as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from base import formatting
from pretrain.report.html import Markup, element, join, text

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 22, 10, 40
MOST_POINTS = 400
"""A longer curve is drawn by the means of so many equal parts."""
MARKED_POINTS = 60
"""Curves with at most so many points have a mark at each."""


@dataclass(frozen=True)
class Curve:
    """A curve of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    kind: str = "curve"
    """"curve", "faint" or "dashed"."""
    marked: bool = False
    """Whether its points have marks, with their values on hovering."""


def line_chart(title: str, curves: Sequence[Curve], x_label: str, *, percent: bool = False) -> Markup:
    """Curves over one axis; nothing if they have no points.

    Args:
      title: above the chart.
      curves: the curves; values that are not finite are left out.
      x_label: below the axis.
      percent: show values times 100.
    """
    drawn = [(curve, _thinned(curve)) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    if not drawn:
        return Markup("")
    xs, ys = ([point[axis] for _, points in drawn for point in points] for axis in (0, 1))
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    frame = _Frame((min(xs), max(xs)), (min(min(ys), y_ticks[0]), max(max(ys), y_ticks[-1])))
    parts = [_grid(frame, y_ticks, percent), _x_axis(frame, x_ticks, x_label)]
    for curve, points in drawn:
        line = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        name = text(f"{curve.name}: last {_shown(points[-1][1], percent)}")
        kind = "curve" if curve.kind == "curve" else f"curve {curve.kind}"
        parts.append(
            Markup(
                f'<polyline class="{kind}" stroke="{curve.colour}" points="{line}"><title>{name}</title></polyline>'
            )
        )
        if len(points) == 1 or (curve.marked and len(points) <= MARKED_POINTS):
            parts += [_mark(frame, curve, x, y, percent) for x, y in points]
    return figure(title, Markup("".join(parts)))


def figure(title: str, content: Markup, *, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    """A picture with its title. One that is wider than WIDTH keeps its size on a phone, and is moved sideways."""
    svg = Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{text(title)}">{content}</svg>'
    )
    kind = {"class_": "broad"} if width > WIDTH else {}
    return element("figure", join([element("figcaption", text(title)), svg]), **kind)


def bars(
    title: str, names: Sequence[str], values: Sequence[float], labels: Sequence[str], colour: str
) -> Markup:
    """Horizontal bars from 0; nothing without values.

    Args:
      title: above the chart.
      names: of the bars.
      values: their lengths, 0 or more.
      labels: what stands at their ends.
      colour: of all.
    """
    if not values:
        return Markup("")
    longest, height, parts = max(max(values), 1e-12), 22, list[Markup]()
    left, right = 130, 120
    for index, (name, value, label) in enumerate(zip(names, values, labels, strict=True)):
        y, length = TOP + index * height, (WIDTH - left - right) * value / longest
        parts.append(_label(left - 8, y + 14, cut(name, 19), "end", whole=name))
        parts.append(
            Markup(f'<rect x="{left}" y="{y + 3}" width="{length:.1f}" height="15" fill="{colour}"/>')
        )
        parts.append(_label(left + length + 6, y + 14, label, "start"))
    return figure(title, Markup("".join(parts)), height=2 * TOP + height * len(names))


def histogram(title: str, values: Sequence[float], x_label: str, colour: str, *, count: int = 30) -> Markup:
    """How often values fall into equal ranges; nothing without values."""
    if not values:
        return Markup("")
    low, high = min(values), max(values)
    width = (high - low) / count or 1.0
    counts = [0] * count
    for value in values:
        counts[min(int((value - low) / width), count - 1)] += 1
    frame = _Frame((low, low + count * width), (0, max(counts)))
    parts = [
        _grid(frame, ticks(0, max(counts)), False),
        _x_axis(frame, ticks(low, low + count * width), x_label),
    ]
    for index, each in enumerate(counts):
        x, y = frame.x(low + index * width), frame.y(each)
        size = frame.x(low + (index + 1) * width) - x
        parts.append(
            Markup(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(size - 1, 0.5):.1f}" height="{frame.y(0) - y:.1f}" '
                f'fill="{colour}"/>'
            )
        )
    return figure(title, Markup("".join(parts)))


def heat_map(title: str, names: Sequence[str], counts: Sequence[Sequence[int]], colour: str) -> Markup:
    """A confusion matrix: true classes down, predicted classes across; shares of a row decide the shade."""
    if not names:
        return Markup("")
    left, top = 120, 64
    cell = min(44.0, (WIDTH - left - RIGHT) / len(names))
    parts = [_label(left, 14, "predicted →  (true ↓)", "start", soft=True)]
    for row, (name, values) in enumerate(zip(names, counts, strict=True)):
        y, total = top + row * cell, max(sum(values), 1)
        parts.append(_label(left - 6, y + cell / 2 + 4, cut(name, 17), "end", whole=name))
        x = left + row * cell + cell / 2
        spot = f"{x:.1f} {top - 8}"
        whole, short = text(name), text(cut(name, 10))
        parts.append(
            Markup(f'<text transform="translate({spot}) rotate(-35)"><title>{whole}</title>{short}</text>')
        )
        for column, value in enumerate(values):
            x = left + column * cell
            said = text(f"{name} as {names[column]}: {value}")
            parts.append(
                Markup(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" fill="{colour}" '
                    f'fill-opacity="{0.06 + 0.94 * value / total:.3f}"><title>{said}</title></rect>'
                )
            )
            if cell >= 24 and value:
                parts.append(_label(x + cell / 2, y + cell / 2 + 4, formatting.count(value), "middle"))
    return figure(title, Markup("".join(parts)), height=math.ceil(top + cell * len(names) + TOP))


def parallel(
    title: str, axes: Sequence[str], trials: Sequence[tuple[str, Sequence[float | str | None], str]]
) -> Markup:
    """Parallel coordinates: an axis for each hyperparameter and one for the score, a line for each trial.

    Args:
      title: above the chart.
      axes: their names.
      trials: for each, its name, its value on each axis (None: it has none there), and its colour.
    """
    if not trials or len(axes) < 2:
        return Markup("")
    width, height, top = 720, 320, 40
    gap = (width - 120) / (len(axes) - 1)
    parts, places = list[Markup](), list[dict[object, float]]()
    for index, axis in enumerate(axes):
        x = 60 + index * gap
        places.append(scale([value for _, own, _ in trials if (value := own[index]) is not None]))
        parts.append(Markup(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 20}"/>'))
        parts.append(_label(x, 14, cut(axis, 18), "middle", whole=axis))
        known = list(places[-1].items())
        for mark, place in known if len(known) <= 6 else (min(known, key=_place), max(known, key=_place)):
            said = f"{mark:.4g}" if isinstance(mark, float | int) else cut(str(mark), 14)
            parts.append(_label(x + 5, _down(place, top, height) + 4, said, "start", soft=True))
    for name, own, colour in trials:
        points = [
            (60 + index * gap, _down(places[index][value], top, height))
            for index, value in enumerate(own)
            if value is not None
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            Markup(
                f'<polyline class="curve" stroke="{colour}" points="{line}"><title>{text(name)}</title></polyline>'
            )
        )
    return figure(title, Markup("".join(parts)), width=width, height=height)


def scale(values: Sequence[float | str]) -> dict[object, float]:
    """The place of each value on an axis, from 0 to 1.

    Numbers lie by their size, or by its logarithm if the largest is more than 20 times the smallest; others in order.
    """
    distinct = list(dict.fromkeys(values))
    numbers = [value for value in distinct if isinstance(value, float | int) and math.isfinite(value)]
    if len(numbers) < len(distinct):
        return {
            value: index / max(len(distinct) - 1, 1) for index, value in enumerate(sorted(distinct, key=str))
        }
    wide = bool(numbers) and min(numbers) > 0 and max(numbers) > 20 * min(numbers)
    sizes = [math.log(value) if wide else value for value in numbers]
    low, span = min(sizes, default=0.0), (max(sizes, default=0.0) - min(sizes, default=0.0)) or 1.0
    return {value: (size - low) / span for value, size in zip(numbers, sizes)}


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two values, both ends near the outer ones."""
    if not high > low:
        return [low]
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= raw)
    first = math.ceil(low / step - 1e-9)
    return [each * step for each in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def cut(name: str, most: int) -> str:
    """A name of at most so many characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


@dataclass(frozen=True)
class _Frame:
    """From values to places in the picture."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (WIDTH - LEFT - RIGHT) * ((value - low) / (high - low) if high > low else 0.5)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return (
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ((value - low) / (high - low) if high > low else 0.5)
        )


def _thinned(curve: Curve) -> list[tuple[float, float]]:
    """The finite points of a curve, or the means of MOST_POINTS parts of them."""
    points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len(points) <= MOST_POINTS:
        return points
    bounds = [round(index * len(points) / MOST_POINTS) for index in range(MOST_POINTS + 1)]
    parts = [points[first:stop] for first, stop in pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _grid(frame: _Frame, y_ticks: Sequence[float], percent: bool) -> Markup:
    parts = []
    for value in y_ticks:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_label(LEFT - 6, y + 4, _shown(value, percent, tick=True), "end", soft=True))
    return Markup("".join(parts))


def _x_axis(frame: _Frame, x_ticks: Sequence[float], label: str) -> Markup:
    parts = [
        _label(
            frame.x(value),
            HEIGHT - BOTTOM + 16,
            formatting.count(value) if value >= 1000 else f"{value:.4g}",
            "middle",
            soft=True,
        )
        for value in x_ticks
    ]
    return Markup(
        "".join([*parts, _label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, label, "middle", soft=True)])
    )


def _mark(frame: _Frame, curve: Curve, x: float, y: float, percent: bool) -> Markup:
    said = text(f"{curve.name} at {x:.6g}: {_shown(y, percent)}")
    return Markup(
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3" fill="{curve.colour}">'
        f"<title>{said}</title></circle>"
    )


def _label(x: float, y: float, said: str, anchor: str, *, soft: bool = False, whole: str = "") -> Markup:
    hover = f"<title>{text(whole)}</title>" if whole and whole != said else ""
    kind = ' class="soft"' if soft else ""
    return Markup(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{hover}{text(said)}</text>')


def _shown(value: float, percent: bool, *, tick: bool = False) -> str:
    if percent:
        return f"{100 * value:.4g}%"
    if abs(value) >= 1000:
        return formatting.count(value)
    return f"{value:.3g}" if tick else f"{value:.4g}"


def _down(place: float, top: int, height: int) -> float:
    return height - 20 - place * (height - 20 - top)


def _place(item: tuple[object, float]) -> float:
    return item[1]

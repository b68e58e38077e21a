"""A panel of curves as SVG text. Pure; draws in milliseconds and needs no library.

Colours are the page's: lines have the classes `tone1` to `tone3`, the rest `grid`, `level`, `tick` and `over` (text over lines),
so that light and dark are a matter of its style sheet.
"""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass

from simclr.pretrain.curves import Curve

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 420, 220, 46, 22, 8, 10
"""Pixels of the panel, and of the margins around the curves."""
_FEW = 60
"""Points up to which each is drawn as a dot and none is smoothed."""


@dataclass(frozen=True)
class Line:
    label: str
    """For the legend, where a panel has several lines."""
    curve: Curve
    scale: float = 1.0
    """Times which the curve's values are shown."""


@dataclass(frozen=True)
class Level:
    """A value that the curves are to be read against."""

    value: float
    label: str
    always: bool = False
    """Stretch the axis to show it; else it is left out where it is far from the curves."""


@dataclass(frozen=True)
class Panel:
    title: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...] = ()
    log: bool = False
    low: float | None = None
    """Where the axis begins; by default where the curves do."""
    high: float | None = None


def svg(panel: Panel, *, steps: int) -> str:
    """The panel over steps 0 to `steps`. Values that a logarithmic axis cannot show are left out."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    low, high = _range(panel)
    start, stop = (math.log10(low), math.log10(high)) if panel.log else (low, high)

    def x(step: float) -> float:
        return width * step / max(1, steps)

    def y(value: float) -> float:
        return height * (1 - ((math.log10(value) if panel.log else value) - start) / (stop - start))

    def points(pairs: Iterable[tuple[float, float]], scale: float) -> str:
        seen = ((step, value * scale) for step, value in pairs)
        return " ".join(
            f"{x(step):.1f},{min(max(y(value), -height), 2 * height):.1f}"
            for step, value in seen
            if value > 0 or not panel.log
        )

    parts = []
    for value in ticks_log(low, high) if panel.log else ticks(low, high, 6):
        at = y(value)
        parts.append(f'<path class="grid" d="M0,{at:.1f}H{width}"/>')
        parts.append(f'<text class="tick" x="-6" y="{at + 3.5:.1f}" text-anchor="end">{short(value)}</text>')
    for value in ticks(0, steps, 5):
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{height + 16}" text-anchor="middle">{short(value)}</text>'
        )
    drawn = []
    for tone, line in enumerate(panel.lines, 1):
        few = len(line.curve) <= _FEW
        if not few:
            raw = points(line.curve.extremes(), line.scale)
            drawn.append(f'<polyline class="raw tone{tone}" points="{raw}"/>')
        means = points(line.curve.means() if few else line.curve.smooth(), line.scale)
        drawn.append(f'<polyline class="line tone{tone}" points="{means}"/>')
        if few:
            dots = (point.split(",") for point in means.split())
            drawn += [f'<circle class="tone{tone}" cx="{cx}" cy="{cy}" r="2.5"/>' for cx, cy in dots]
    for level in panel.levels:
        if low <= level.value <= high:
            at = y(level.value)
            above = at - 4 if at > 10 else at + 13
            drawn.append(f'<path class="level" d="M0,{at:.1f}H{width}"/>')
            drawn.append(
                f'<text class="tick over" x="{width - 4}" y="{above:.1f}" text-anchor="end">{html.escape(level.label)}</text>'
            )
    return (
        f'<svg viewBox="{-_LEFT} {-_TOP} {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(panel.title)} over steps">'
        f"{''.join(parts)}"
        f'<svg x="-4" y="-4" width="{width + 8}" height="{height + 8}" viewBox="-4 -4 {width + 8} {height + 8}">'  # it clips
        f"{''.join(drawn)}</svg></svg>"
    )


def _range(panel: Panel) -> tuple[float, float]:
    """Where the axis begins and ends: all but the most extreme hundredth of the values, with some air around them."""
    values: list[float] = []
    for line in panel.lines:
        seen = sorted(v * line.scale for _, v in line.curve.extremes() if v > 0 or not panel.log)
        cut = len(seen) // 200
        values += seen[cut : len(seen) - cut]
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    if panel.log:
        return low / 1.2, high * 1.2
    near = (high - low) / 2
    for level in panel.levels:
        if level.always or low - near <= level.value <= high + near:
            low, high = min(low, level.value), max(high, level.value)
    low = low if panel.low is None else panel.low
    high = high if panel.high is None else panel.high
    if high <= low:
        low, high = (
            (low - abs(low) / 10 - 1e-9, low + abs(low) / 10 + 1e-9) if panel.low is None else (low, low + 1)
        )
    air = 0.1 * (high - low)
    return low - (air if panel.low is None else 0), high + (air if panel.high is None else 0)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers from low to high: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1)]


def ticks_log(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, at most about six; where there are fewer than two, twice and five times them, too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, (last - first) // 6)
    powers = [10.0**i for i in range(first, last + 1, every)]
    inside = [value for value in powers if low <= value <= high]
    if len(inside) >= 2:
        return inside
    finer = [factor * value for value in powers for factor in (1, 2, 5) if low <= factor * value <= high]
    return finer or [low, high]


def short(value: float) -> str:
    """A number in few signs: 0.25, 12k, 1.5M, 3e-05."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if sign == "k" else size
            return f"{value / unit:.4g}{sign}"
    return f"{value:.4g}"

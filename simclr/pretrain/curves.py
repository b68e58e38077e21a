"""The numbers of a run over its steps, thinned to what a picture can show. Takes lines of metrics, keeps no file.

100,000 steps are kept in as much memory, and drawn in as much time, as 1,000.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping

POINTS = 1000
"""Most points of a curve; a panel of the page is about 400 pixels wide."""
_RECENT = 100
"""Steps over which speed and waiting are averaged."""


class Curve:
    """One number over steps: neighbouring values share a point, ever more of them as the curve grows."""

    def __init__(self) -> None:
        self._each = 1
        self._points: list[_Point] = []

    def add(self, step: int, value: float, *, weight: float = 1.0) -> None:
        """`weight` in means with its neighbours: for a rate its time."""
        point = _Point(step, value, weight)
        if self._points and self._points[-1].count < self._each:
            self._points[-1].join(point)
            return
        if len(self._points) == POINTS:
            for first, second in zip(self._points[::2], self._points[1::2], strict=True):
                first.join(second)
            self._points = self._points[::2]
            self._each *= 2
        self._points.append(point)

    def __len__(self) -> int:
        return len(self._points)

    def means(self) -> list[tuple[float, float]]:
        """(mean step, mean value) of each point."""
        return [(p.step, p.total / p.weight) for p in self._points]

    def extremes(self) -> Iterator[tuple[float, float]]:
        """Each point's lowest and highest value at its mean step: drawn as a line, it looks as all values would."""
        for p in self._points:
            yield p.step, p.low
            if p.high != p.low:
                yield p.step, p.high

    def smooth(self) -> list[tuple[float, float]]:
        """Means over a fiftieth of the curve around each point, and over less near its ends, which would bend else."""
        totals, weights = [0.0], [0.0]
        for p in self._points:
            totals.append(totals[-1] + p.total)
            weights.append(weights[-1] + p.weight)
        last = len(self._points) - 1
        reach = len(self._points) // 100
        smoothed = []
        for i, p in enumerate(self._points):
            half = min(reach, max(i, reach // 4), max(last - i, reach // 4))
            start, stop = max(0, i - half), min(last, i + half) + 1
            smoothed.append((p.step, (totals[stop] - totals[start]) / (weights[stop] - weights[start])))
        return smoothed


class _Point:
    """Sums over neighbouring values."""

    __slots__ = ("count", "high", "low", "steps", "total", "weight")

    def __init__(self, step: int, value: float, weight: float) -> None:
        self.count, self.steps, self.total, self.weight = 1, float(step), value * weight, weight
        self.low = self.high = value

    @property
    def step(self) -> float:
        return self.steps / self.count

    def join(self, later: "_Point") -> None:
        self.count += later.count
        self.steps += later.steps
        self.total += later.total
        self.weight += later.weight
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)


class Curves:
    """All numbers of a run. `by_name` has the keys of metrics.jsonl, `rate` (steps a second) and `waiting` (share of time)."""

    def __init__(self) -> None:
        self.by_name: dict[str, Curve] = {}
        self.steps = 0
        """Steps done."""
        self._newest: dict[str, float] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._starting = True

    def add(self, line: Mapping[str, float | None]) -> None:
        """A line of metrics, in order of steps. What is None or no number is left out."""
        step = line["step"]
        assert step is not None
        self.steps = int(step) + 1
        numbers = {name: x for name, x in line.items() if x is not None and math.isfinite(x)}
        self._newest |= numbers
        for name, x in numbers.items():
            if name != "step":
                self._curve(name).add(self.steps - 1, x)
        seconds, waited = numbers.get("seconds", 0.0), numbers.get("waited")
        if seconds > 0:
            if not self._starting:
                self._recent.append((seconds, waited or 0.0))
            self._starting = False
            self._curve("rate").add(self.steps - 1, 1 / seconds, weight=seconds)
            if waited is not None:
                self._curve("waiting").add(self.steps - 1, min(1.0, waited / seconds), weight=seconds)

    def start(self) -> None:
        """The lines that follow are of a new process: its speed is its own, and its first step waits for the loader to start."""
        self._recent.clear()
        self._starting = True

    def newest(self) -> dict[str, float]:
        """The last value of each number, but `seconds` and `waited` as means over the last 100 steps."""
        mean = {}
        if self._recent:
            mean["seconds"] = sum(seconds for seconds, _ in self._recent) / len(self._recent)
            if "waited" in self._newest:
                mean["waited"] = sum(waited for _, waited in self._recent) / len(self._recent)
        return self._newest | mean

    def _curve(self, name: str) -> Curve:
        return self.by_name.setdefault(name, Curve())

"""Landscapes drawn by chance, to show the tool on: eight kinds, no two alike, free of anybody's rights.

python docs/scenes.py FOLDER COUNT
"""

import colorsys
import math
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 360, 270
_SCALE = 2
"""Drawn so many times larger and averaged down."""
Colour = tuple[int, int, int]


class Scene:
    """A canvas with its dice. Lengths are shares of the height; x runs from 0 to 4/3."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.h = rng, HEIGHT * _SCALE
        self.hour = rng.choice(["day", "dawn", "dusk", "grey"])
        self.image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE))
        self.draw = ImageDraw.Draw(self.image)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def colour(self, hue: float, saturation: float, value: float, *, jitter: float = 0.04) -> Colour:
        values = (
            (hue + self.between(-jitter, jitter)) % 1,
            min(1.0, max(0.0, saturation + self.between(-jitter, jitter))),
            min(1.0, max(0.0, value + self.between(-jitter, jitter))),
        )
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(*values))
        return red, green, blue

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.h, y * self.h) for x, y in points], fill=colour)

    def disk(self, x: float, y: float, r: float, colour: Colour) -> None:
        self.draw.ellipse(
            [(x - r) * self.h, (y - r) * self.h, (x + r) * self.h, (y + r) * self.h], fill=colour
        )

    def fade(self, top: Colour, bottom: Colour, *, start: float = 0.0, end: float = 1.0) -> None:
        """Rows from one colour to another."""
        first, last = round(start * self.h), round(end * self.h)
        for y in range(first, last):
            share = (y - first) / max(1, last - first)
            row = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
            self.draw.line([(0, y), (self.image.width, y)], fill=row)

    def sky(self, horizon: float) -> None:
        top, low = {
            "day": ((0.58, 0.65, 0.85), (0.55, 0.2, 0.98)),
            "dawn": ((0.62, 0.4, 0.7), (0.04, 0.45, 1.0)),
            "dusk": ((0.72, 0.5, 0.4), (0.02, 0.7, 0.95)),
            "grey": ((0.58, 0.12, 0.6), (0.58, 0.06, 0.85)),
        }[self.hour]
        self.fade(self.colour(*top), self.colour(*low), end=horizon)
        if self.hour != "grey":
            sun = self.colour(0.13, 0.25 if self.hour == "day" else 0.6, 1.0)
            self.disk(self.between(0.1, 1.2), self.between(0.1, horizon), self.between(0.04, 0.09), sun)

    def ridge(self, height: float, rough: float, colour: Colour) -> None:
        """A line of hills or peaks down to the ground: a few waves of chance phases."""
        waves = [(self.between(2, 5) * 2**i, self.between(0, 7), rough / 2**i) for i in range(5)]
        xs = np.linspace(0, 4 / 3, 120)
        points = [(x, height - sum(a * math.sin(f * x + p) for f, p, a in waves)) for x in xs]
        self.polygon([(0, 1), *points, (4 / 3, 1)], colour)


def mountains(s: Scene) -> None:
    s.sky(0.8)
    hue = s.between(0.55, 0.65)
    for i in range(3):
        peaks, height = [], 0.35 + 0.15 * i
        x = -0.2
        while x < 1.5:
            peaks.append((x, height + s.between(0.1, 0.25)))
            x += s.between(0.08, 0.2)
            peaks.append((x, height - s.between(0.0, 0.2)))
            x += s.between(0.08, 0.2)
        s.polygon([(-0.2, 1), *peaks, (1.7, 1)], s.colour(hue, 0.25 + 0.1 * i, 0.75 - 0.2 * i))
        if i == 0:
            for x, y in peaks[1::2]:
                s.polygon(
                    [(x, y), (x - 0.05, y + 0.07), (x, y + 0.05), (x + 0.04, y + 0.08)], (245, 248, 252)
                )


def sea(s: Scene) -> None:
    horizon = s.between(0.4, 0.6)
    s.sky(horizon)
    s.fade(s.colour(0.55, 0.6, 0.75), s.colour(0.58, 0.8, 0.35), start=horizon)
    for _ in range(60):
        x, y = s.between(0, 1.3), s.between(horizon + 0.02, 1)
        s.polygon([(x, y), (x + 0.08 * y, y + 0.004), (x, y + 0.008)], s.colour(0.55, 0.2, 0.9))
    for _ in range(s.rng.integers(1, 4)):
        x, y, size = s.between(0.15, 1.1), s.between(horizon + 0.02, 0.8), s.between(0.1, 0.22)
        s.polygon([(x, y - size), (x, y), (x + size * 0.6, y)], (250, 246, 238))
        s.polygon(
            [(x - 0.01, y - size * 0.8), (x - 0.01, y), (x - size * 0.4, y)],
            s.colour(0.02, 0.7, 0.85, jitter=0.3),
        )
        s.polygon(
            [
                (x - size * 0.5, y + 0.01),
                (x + size * 0.7, y + 0.01),
                (x + size * 0.5, y + 0.06),
                (x - size * 0.3, y + 0.06),
            ],
            s.colour(0.06, 0.6, 0.35),
        )


def city(s: Scene) -> None:
    s.sky(0.9)
    for depth in range(3):
        x = -0.05
        while x < 1.34:
            w, top = s.between(0.07, 0.18), s.between(0.2, 0.55) + 0.12 * depth
            s.polygon([(x, top), (x + w, top), (x + w, 1), (x, 1)], s.colour(0.62, 0.15, 0.65 - 0.18 * depth))
            if depth:
                for row in np.arange(top + 0.03, 0.97, 0.045):
                    for column in np.arange(x + 0.015, x + w - 0.02, 0.03):
                        if s.rng.random() < 0.5:
                            s.polygon(
                                [
                                    (column, row),
                                    (column + 0.014, row),
                                    (column + 0.014, row + 0.022),
                                    (column, row + 0.022),
                                ],
                                s.colour(0.13, 0.5, 0.95),
                            )
            x += w + s.between(0, 0.02)


def desert(s: Scene) -> None:
    s.sky(0.75)
    for i in range(4):
        s.ridge(0.55 + 0.12 * i, 0.05, s.colour(0.09, 0.45 + 0.06 * i, 0.95 - 0.12 * i))
    for _ in range(s.rng.integers(2, 6)):
        x, y, size = s.between(0.1, 1.2), s.between(0.7, 0.95), s.between(0.08, 0.2)
        green = s.colour(0.33, 0.5, 0.4)
        s.polygon([(x, y - size), (x + size * 0.22, y - size), (x + size * 0.22, y), (x, y)], green)
        s.disk(x + size * 0.11, y - size, size * 0.11, green)
        for side, low in ((-1, 0.35), (1, 0.5)):
            a = x + size * 0.11 + side * size * 0.32
            s.polygon(
                [
                    (a - size * 0.07, y - size * 0.9),
                    (a + size * 0.07, y - size * 0.9),
                    (a + size * 0.07, y - size * low),
                    (a - size * 0.07, y - size * low),
                ],
                green,
            )
            s.polygon(
                [
                    (min(a, x + size * 0.1), y - size * low - size * 0.12),
                    (max(a, x + size * 0.1), y - size * low - size * 0.12),
                    (max(a, x + size * 0.1), y - size * low),
                    (min(a, x + size * 0.1), y - size * low),
                ],
                green,
            )


def forest(s: Scene) -> None:
    s.sky(0.7)
    s.ridge(0.6, 0.04, s.colour(0.3, 0.4, 0.5))
    for depth in range(3):
        for x in np.sort(s.rng.uniform(-0.05, 1.38, 14)):
            base, size = 0.75 + 0.12 * depth + s.between(0, 0.05), s.between(0.25, 0.4)
            green = s.colour(0.36, 0.55, 0.45 - 0.1 * depth)
            s.polygon(
                [(x - 0.012, base), (x + 0.012, base), (x + 0.012, base + 0.05), (x - 0.012, base + 0.05)],
                (70, 48, 32),
            )
            for k in range(3):
                y = base - size * k * 0.27
                s.polygon(
                    [
                        (x, y - size * 0.48),
                        (x - size * (0.26 - 0.05 * k), y),
                        (x + size * (0.26 - 0.05 * k), y),
                    ],
                    green,
                )


def night(s: Scene) -> None:
    s.fade(s.colour(0.66, 0.8, 0.12), s.colour(0.7, 0.6, 0.35))
    for _ in range(160):
        s.disk(s.between(0, 1.33), s.between(0, 0.8), s.between(0.001, 0.005), s.colour(0.15, 0.1, 0.95))
    x, y, r = s.between(0.2, 1.1), s.between(0.12, 0.4), s.between(0.06, 0.11)
    s.disk(x, y, r, (250, 246, 220))
    if s.rng.random() < 0.6:
        s.disk(x + r * 0.5, y - r * 0.2, r * 0.9, s.colour(0.67, 0.75, 0.2, jitter=0))
    for i in range(2):
        s.ridge(0.75 + 0.12 * i, 0.05, s.colour(0.68, 0.5, 0.14 - 0.05 * i, jitter=0.01))


def flowers(s: Scene) -> None:
    horizon = s.between(0.25, 0.4)
    s.sky(horizon)
    s.fade(s.colour(0.27, 0.5, 0.65), s.colour(0.3, 0.65, 0.4), start=horizon)
    hue = s.between(0, 1)
    for y in np.sort(s.rng.uniform(horizon + 0.06, 1.02, 70)):
        x, r = s.between(0, 1.33), 0.012 + 0.05 * (y - horizon)
        s.polygon([(x, y), (x + 0.005, y), (x + 0.005, y + 3 * r), (x, y + 3 * r)], s.colour(0.3, 0.7, 0.35))
        petal = s.colour(hue, 0.65, 0.95)
        for k in range(5):
            turn = 2 * math.pi * k / 5 + x
            s.disk(x + r * math.cos(turn), y + r * math.sin(turn), r * 0.75, petal)
        s.disk(x, y, r * 0.6, (250, 215, 70))


def balloons(s: Scene) -> None:
    s.sky(0.95)
    s.ridge(0.85, 0.03, s.colour(0.28, 0.45, 0.55))
    for _ in range(s.rng.integers(3, 8)):
        x, y, r = s.between(0.1, 1.2), s.between(0.12, 0.65), s.between(0.05, 0.13)
        hue = s.between(0, 1)
        s.polygon(
            [
                (x - r * 0.7, y + r * 0.7),
                (x + r * 0.7, y + r * 0.7),
                (x + r * 0.2, y + r * 1.5),
                (x - r * 0.2, y + r * 1.5),
            ],
            s.colour(hue, 0.8, 0.7),
        )
        for k, width in enumerate((1.0, 0.62, 0.25)):
            colour = s.colour(hue + 0.12 * (k % 2), 0.75, 0.95)
            box = [(x - r * width) * s.h, (y - r) * s.h, (x + r * width) * s.h, (y + r) * s.h]
            s.draw.ellipse(box, fill=colour)
        s.polygon(
            [
                (x - r * 0.2, y + r * 1.6),
                (x + r * 0.2, y + r * 1.6),
                (x + r * 0.17, y + r * 1.9),
                (x - r * 0.17, y + r * 1.9),
            ],
            (112, 74, 40),
        )


KINDS = {draw.__name__: draw for draw in (mountains, sea, city, desert, forest, night, flowers, balloons)}


def scene(kind: str, number: int) -> Image.Image:
    """The same picture for the same kind and number, (WIDTH, HEIGHT) RGB."""
    rng = np.random.Generator(np.random.PCG64([list(KINDS).index(kind), number]))
    canvas = Scene(rng)
    KINDS[kind](canvas)
    small = canvas.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    grain = rng.normal(0, 5, (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.4)
    )


def draw_scenes(folder: Path, count: int) -> None:
    """`count` JPEG files of all kinds in turn, in a folder a kind."""
    for number in range(count):
        kind = [*KINDS][number % len(KINDS)]
        path = folder / kind / f"{number // len(KINDS):03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(kind, number // len(KINDS)).save(path, quality=88)


if __name__ == "__main__":
    draw_scenes(Path(sys.argv[1]), int(sys.argv[2]))

"""Twelve plain images whose neighbours can be worked out by hand."""

from pathlib import Path

from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "orange": (230, 120, 20),
    "yellow": (230, 220, 40),
    "green": (30, 180, 60),
    "blue": (40, 60, 220),
    "purple": (150, 40, 200),
}


def draw(folder: Path) -> Path:
    """`warm/` and `cold/` hold a light and a dark image of each colour, 48 x 32."""
    for name, colour in COLOURS.items():
        group = folder / ("warm" if name in ("red", "orange", "yellow") else "cold")
        group.mkdir(parents=True, exist_ok=True)
        for shade, factor in (("light", 1.0), ("dark", 0.6)):
            pixels = tuple(round(value * factor) for value in colour)
            Image.new("RGB", (48, 32), pixels).save(group / f"{name}_{shade}.png")
    return folder

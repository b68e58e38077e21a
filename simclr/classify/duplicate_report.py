"""Copies that were found -> one self-contained HTML page: where the threshold cuts, and the images. Finds nothing itself.

Shape letters: S = images copied, C = kinds of copies, M = images whose nearest other is known.
"""

import html
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.classify.copies import KINDS
from simclr.classify.cut import Cut
from simclr.classify.duplicate_words import size_words
from simclr.classify.figures import INK, as_svg, canvas, tone
from simclr.embed.gallery import Row, Tile, picture_page
from simclr.html_page import html_table

SHOWN = 200
"""Groups, or images with a copy, that are on the page; each image is read, and takes some 10 kB."""
_TILES = 24
"""Copies of a group that are on the page."""
_BINS = 60
_TICKS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 1e-3, 1e-4, 1e-5, 1e-6)
"""Distances that the axis names, as 1 less these."""


def groups_page(
    groups: Iterable[dict[str, Any]], total: int, counts: str, threshold: float, cut: Cut | None,
    nearest_M: NDArray[np.float32], *, title: str,
) -> str:  # fmt: skip
    """`groups`: as `duplicate_words.objects` gives them, `total` of them."""
    rows = [Row(_tiles(group), _heading(group)) for group in islice(groups, SHOWN)]
    return _page(rows, total, "groups", counts, threshold, cut, nearest_M, title=title)


def leaks_page(
    leaks: Iterable[dict[str, Any]], total: int, counts: str, threshold: float, cut: Cut | None,
    nearest_M: NDArray[np.float32], *, title: str,
) -> str:  # fmt: skip
    """`leaks`: as `duplicate_words.leak_objects` gives them, `total` of them."""
    rows = [
        Row([Tile(leak["path"], "this one", "query"), Tile(leak["copy_path"], _label(leak))])
        for leak in islice(leaks, SHOWN)
    ]
    return _page(rows, total, "images with a copy", counts, threshold, cut, nearest_M, title=title)


def picture(threshold: float, planted_SC: NDArray[np.float32] | None, nearest_M: NDArray[np.float32]) -> str:
    """Two histograms, planted copies and nearest other images, with the cut as a line. As SVG.

    Over the distance, 1 less the cosine or the likeness, on a logarithmic scale, the nearest on the right: copies may differ in the fourth decimal.
    """
    figure, axes = canvas(7.5, 3.6)
    parts = [("nearest other image", nearest_M)]
    parts += [("planted copies", planted_SC.ravel())] if planted_SC is not None else []
    distances = [1 - values.astype(np.float64) for _, values in parts]
    some = np.concatenate([*distances, [1 - threshold]])
    least = max(1e-6, 0.5 * min(1 - threshold, float(np.quantile(some, 0.002))))
    far = max(10 * least, float(some.max()))
    bins = np.geomspace(least, far * 1.05, _BINS + 1)
    for number, ((name, _), distance) in enumerate(zip(parts, distances, strict=True)):
        if len(distance):
            x, shares = np.maximum(least, distance), np.full(len(distance), 1 / len(distance))
            axes.hist(x, bins, weights=shares, color=tone(number), alpha=0.55, label=name)
    axes.axvline(max(least, 1 - threshold), color=INK, lw=1.5, ls="--", label=f"threshold {threshold:.6g}")
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = [tick for tick in _TICKS if least <= tick <= far * 1.05]
    axes.set_xticks(ticks, [f"{1 - tick:.6f}".rstrip("0").rstrip(".") for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("cosine" if planted_SC is None else "likeness", color=INK)
    axes.set_ylabel("share of images", color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="upper right")
    return as_svg(figure)


def _page(
    rows: Sequence[Row], total: int, what: str, counts: str, threshold: float, cut: Cut | None,
    nearest_M: NDArray[np.float32], *, title: str,
) -> str:  # fmt: skip
    first = (
        f" The first {SHOWN} of {total:,} {what} are shown; a CSV file (--csv) has all."
        if total > SHOWN
        else ""
    )
    lead = f"<p>{html.escape(counts)}.{first} Nothing was deleted.</p>\n<h2>Where the threshold cuts</h2>\n"
    if cut is None:
        lead += f"<p>At a cosine of {threshold:g}, as given. Blue: how near the nearest image of another content comes to each.</p>\n"
        return picture_page(rows, title=title, lead=lead + picture(threshold, None, nearest_M))
    lead += (
        f"<p>At a likeness of {threshold:.4f}, 1 being the same small picture. Orange: copies made of {len(cut.planted_SC):,} images of the store. Blue: how "
        "alike the most alike of the nearest images of another content is to each; those right of the line are taken for copies.</p>\n"
    )
    table = html_table(
        [
            ["planted copies", "found"],
            *([kind, f"{100 * share:.1f} %"] for kind, share in zip(KINDS, cut.found_C, strict=True)),
        ]
    )
    return picture_page(rows, title=title, lead=lead + picture(threshold, cut.planted_SC, nearest_M) + table)


def _tiles(group: dict[str, Any]) -> list[Tile]:
    keeper = group["keeper"]
    label = f"keep: {keeper['width']} x {keeper['height']}, {size_words(keeper['bytes'])}"
    return [
        Tile(keeper["path"], label, "query"),
        *(Tile(each["path"], _label(each)) for each in group["copies"][:_TILES]),
    ]


def _heading(group: dict[str, Any]) -> str:
    more = len(group["copies"]) - _TILES
    return f"Group {group['group']:,}" + (f", and {more:,} copies more" if more > 0 else "")


def _label(image: dict[str, Any]) -> str:
    size = f", {image['width']} x {image['height']}, {size_words(image['bytes'])}" if "bytes" in image else ""
    return f"{image['similarity']:.4f} {image['kind']}{size}"

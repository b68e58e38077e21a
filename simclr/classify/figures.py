"""Measures -> pictures as SVG, readable on light and dark. Draws; measures nothing.

Shape letters: Q = test images, C = classes.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.classify.evaluation import FEW_VOTERS, Evaluation, interval
from simclr.errors import MissingExtra

INK = "#7d8590"
"""Of text and axes: as far from white as from black."""
_TONES = ("#3b82f6", "#e8590c", "#12a37a", "#a855f7", "#d6336c", "#b08900")
_NAMED = 40
"""Classes up to which the axes of a confusion matrix name them."""
_LEGEND = 20
"""Classes up to which a map has a legend."""


def measures(names: Sequence[str], evaluations: Sequence[Evaluation]) -> str:
    """Every measure with its 95 % interval, encoder beside encoder."""
    rows = list(evaluations[0].values)
    figure, axes = canvas(7.5, 0.7 + 0.36 * len(rows) * max(1.0, len(names) / 2))
    for number, evaluation in enumerate(evaluations):
        found = [interval(evaluation.values[name]) for name in rows]
        values = np.array([each.value for each in found])
        errors = np.array([[each.value - each.low, each.high - each.value] for each in found]).T
        places = np.arange(len(rows)) + 0.5 * (number - (len(names) - 1) / 2) / max(1, len(names) - 1) * (
            len(names) > 1
        )
        axes.errorbar(
            values, places, xerr=errors, fmt="o", ms=5, lw=1.5, color=tone(number), label=names[number]
        )
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color=INK, alpha=0.25)
    _legend(axes, names)
    return as_svg(figure)


def few_labels(names: Sequence[str], evaluations: Sequence[Evaluation]) -> str:
    """Accuracy against the share of labels, of the probe and of a vote."""
    figure, axes = canvas(7.5, 3.6)
    for number, evaluation in enumerate(evaluations):
        for name, style in (("linear probe", "-"), (f"kNN, k = {FEW_VOTERS}", "--")):
            shares = {percent: part[name] for percent, part in sorted(evaluation.few.items()) if name in part}
            if name in evaluation.values:
                shares[100.0] = evaluation.values[name]
            found = [interval(values_Q) for values_Q in shares.values()]
            low, high = [each.low for each in found], [each.high for each in found]
            axes.plot(
                list(shares),
                [each.value for each in found],
                style,
                marker="o",
                ms=4,
                color=tone(number),
                label=name if len(names) == 1 else f"{names[number]}: {name}",
            )
            axes.fill_between(list(shares), low, high, color=tone(number), alpha=0.12, lw=0)
    axes.set_xscale("log")
    percents = [*evaluations[0].few, 100.0]
    axes.set_xticks(percents, [f"{percent:g} %" for percent in percents])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("labels", color=INK)
    axes.grid(color=INK, alpha=0.25)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return as_svg(figure)


def confusion(table_CC: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Rows are classes, columns what they were taken for, as shares of the row."""
    shares_CC = table_CC / np.maximum(1, table_CC.sum(1, keepdims=True))
    side = min(9.0, 3 + 0.17 * len(classes))
    figure, axes = canvas(side + 1, side)
    axes.imshow(shares_CC, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if len(classes) <= _NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set_xlabel("taken for", color=INK)
    axes.set_ylabel("class", color=INK)
    return as_svg(figure)


def scatter(places_Q2: NDArray[np.float64], labels_Q: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Images as points, coloured by their class."""
    figure, axes = canvas(7.5, 6)
    colours = _colours(len(classes))
    for label in np.unique(labels_Q):
        here_P2 = places_Q2[labels_Q == label]
        axes.scatter(
            here_P2[:, 0],
            here_P2[:, 1],
            s=9,
            lw=0,
            color=colours[label],
            label=classes[label],
            rasterized=True,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    if len(classes) <= _LEGEND:
        axes.legend(
            frameon=False,
            labelcolor=INK,
            fontsize=7,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            markerscale=2,
        )
    return as_svg(figure)


def _colours(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20" if count <= 20 else "gist_rainbow"](np.linspace(0, 1, max(2, count)))


def tone(number: int) -> str:
    """The colour of the n-th of several things, from 0; readable in light and dark."""
    return _TONES[number % len(_TONES)]


def check_drawing() -> None:
    """Before long work: raises MissingExtra without matplotlib."""
    canvas(1, 1)


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches and its axes, in colours for light and dark. Raises MissingExtra without matplotlib."""
    try:
        import matplotlib.figure as figures
    except ImportError:
        raise MissingExtra("matplotlib", "classify") from None
    figure = figures.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _legend(axes: Any, names: Sequence[str]) -> None:
    if len(names) > 1:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)


def as_svg(figure: Any) -> str:
    """Text to stand in a page, without the XML head, the time and random ids: the same picture is the same text."""
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context(
        {"svg.hashsalt": "simclr", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure.savefig(written, format="svg", transparent=True, dpi=144, metadata={"Date": None})
    text = written.getvalue()
    return text[text.index("<svg") :]

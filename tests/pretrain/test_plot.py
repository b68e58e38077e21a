"""Panels of curves as SVG."""

import re
from xml.etree import ElementTree

import pytest

from simclr.pretrain.curves import Curve
from simclr.pretrain.plot import Level, Line, Panel, short, svg, ticks, ticks_log


def line(values: list[float], *, label: str = "loss", every: int = 1) -> Line:
    curve = Curve()
    for i, value in enumerate(values):
        curve.add(i * every, value)
    return Line(label, curve)


def drawn(panel: Panel, *, steps: int) -> ElementTree.Element:
    return ElementTree.fromstring(svg(panel, steps=steps))


def points(picture: ElementTree.Element, kind: str) -> list[tuple[float, float]]:
    (found,) = (one for one in picture.iter("polyline") if kind in one.attrib["class"].split())
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found.attrib["points"].split())]


def test_points_lie_where_the_axes_say():
    """0 to 10 over 4 steps on an axis from 0 to 10: corner to corner of 364 x 190 pixels."""
    picture = drawn(Panel("Loss", (line([0, 5, 10]),), low=0, high=10), steps=2)
    assert points(picture, "line") == [(0, 190), (182, 95), (364, 0)]


def test_a_logarithmic_axis_shows_powers_at_equal_distances_and_leaves_out_zero():
    picture = drawn(Panel("Norm", (line([0, 1, 10, 100]),), log=True), steps=3)
    (_, a), (_, b), (_, c) = points(picture, "line")
    assert b - c == pytest.approx(a - b, abs=0.11)
    assert a > b > c


def test_few_points_are_dots_and_many_are_a_smooth_line_over_faint_ones():
    few, many = (
        drawn(Panel("Loss", (line([1.0, 2.0] * n),)), steps=2 * n)
        for n in (10, 200)
    )  # fmt: skip
    assert len(list(few.iter("circle"))) == 20
    assert [one.attrib["class"] for one in few.iter("polyline")] == ["line tone1"]
    assert [one.attrib["class"] for one in many.iter("polyline")] == ["raw tone1", "line tone1"]
    smooth = [y for _, y in points(many, "line")][10:-10]
    raw = [y for _, y in points(many, "raw")]
    assert max(smooth) - min(smooth) < (max(raw) - min(raw)) / 4


def levels(picture: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in picture.iter("text") if "over" in one.attrib["class"]]


def test_a_level_near_the_curve_is_drawn_and_a_far_one_only_if_it_must_be():
    near, far, must = Level(2.2, "near"), Level(50, "far"), Level(40, "<must>", always=True)
    assert levels(drawn(Panel("Loss", (line([1, 2]),), (near, far)), steps=2)) == ["near"]
    assert levels(drawn(Panel("Loss", (line([1, 2]),), (near, must)), steps=2)) == ["near", "<must>"]


def test_one_wild_value_does_not_flatten_the_curve():
    values = [1.0 + i / 1000 for i in range(1000)]
    values[500] = 1e6
    heights = [y for _, y in points(drawn(Panel("Loss", (line(values),)), steps=1000), "line")]
    assert heights[20] - heights[-20] > 140


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "values", [[], [0.0], [5.0], [5.0] * 3, [-1.0], [-3.0, -3.0], [1e-300, 1e300], [0.0, 1e-12]]
)
def test_any_values_give_a_picture(values, log):
    for low in (None, 0.0):
        text = svg(Panel("Loss", (line(values),), log=log, low=low), steps=1)
        ElementTree.fromstring(text)
        assert not re.search("nan|inf", text)


def test_a_long_run_is_drawn_in_few_bytes():
    values = [5 - step / 20_000 + (step * 7919 % 101) / 500 for step in range(30_000)]
    assert len(svg(Panel("Loss", (line(values),)), steps=30_000)) < 50_000


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 31_000, [0, 10_000, 20_000, 30_000]),
        (4.41, 4.44, [4.41, 4.42, 4.43, 4.44]),
        (-3.9, -1, [-3, -2, -1]),
        (7, 7, [7]),
    ],
)  # fmt: skip
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.05, 20, [0.1, 1, 10]),
        (0.3, 0.9, [0.5]),
        (0.15, 2.5, [0.2, 0.5, 1, 2]),
        (1e-12, 1, [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1]),
        (3, 4, [3, 4]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_powers_or_twice_and_five_times_them(low, high, expected):
    assert ticks_log(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.25"), (0, "0"), (4.43, "4.43"), (5000, "5000"), (12_000, "12k"), (1_500_000, "1.5M"), (3e-5, "3e-05"), (-2, "-2")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert short(value) == text

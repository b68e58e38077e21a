"""A run's numbers, thinned without losing what a picture must show."""

import math
import random

import pytest

from simclr.pretrain.curves import POINTS, Curve, Curves


def curve_of(values: list[float]) -> Curve:
    curve = Curve()
    for step, value in enumerate(values):
        curve.add(step, value)
    return curve


def test_a_short_curve_is_kept_as_it_is():
    curve = curve_of([3.0, 1.0, 2.0])
    assert curve.means() == list(curve.extremes()) == curve.smooth() == [(0, 3), (1, 1), (2, 2)]


@pytest.mark.parametrize("count", [POINTS, POINTS + 1, 2 * POINTS, 2 * POINTS + 1, 12_345])
def test_a_long_curve_has_few_points_that_are_means_of_neighbouring_values(count):
    """The slow twin cuts the whole list into pieces of the same length."""
    rng = random.Random(0)
    values = [rng.gauss(0, 1) for _ in range(count)]
    curve = curve_of(values)
    each = next(2**i for i in range(20) if POINTS * 2**i >= count)
    pieces = [range(i, min(i + each, count)) for i in range(0, count, each)]
    assert len(curve) == len(pieces) <= POINTS
    for (step, mean), piece in zip(curve.means(), pieces, strict=True):
        assert step == pytest.approx(sum(piece) / len(piece))
        assert mean == pytest.approx(sum(values[i] for i in piece) / len(piece))


def test_a_single_spike_among_many_values_is_still_there():
    values = [1.0] * 50_000
    values[31_000], values[41_001] = 99.0, -7.0
    assert max(value for _, value in curve_of(values).extremes()) == 99
    assert min(value for _, value in curve_of(values).extremes()) == -7


def test_rates_are_averaged_by_their_time():
    """Of two steps of 1 s and 3 s the speed is 2 steps in 4 s, not the mean of 1 and 1/3; so with the share of waiting."""
    curves = Curves()
    for step in range(2 * POINTS):
        curves.add({"step": step, "seconds": (1.0, 3.0)[step % 2], "waited": (0.0, 2.0)[step % 2]})
    for name in ("rate", "waiting"):
        assert [value for _, value in curves.by_name[name].means()] == pytest.approx([0.5] * POINTS)
        assert curves.by_name[name].smooth()[POINTS // 2][1] == pytest.approx(0.5)


def test_smoothing_averages_a_fiftieth_and_leaves_a_straight_line_straight():
    straight = curve_of([2.0 * i for i in range(500)])
    middle = straight.smooth()[10:-10]
    assert [value for _, value in middle] == pytest.approx([2.0 * i for i in range(10, 490)])
    spike = [0.0] * 500
    spike[250] = 11.0
    smoothed = [value for _, value in curve_of(spike).smooth()]
    assert smoothed[244:257] == pytest.approx([0] + [1] * 11 + [0])


def test_curves_take_any_numbers_and_leave_out_what_is_none():
    curves = Curves()
    curves.add({"step": 0, "loss": 5.0, "mood": 1.0})
    curves.add({"step": 1, "loss": math.nan, "mood": None})
    curves.add({"step": 2, "loss": 4.0})
    assert curves.steps == 3
    assert curves.by_name["loss"].means() == [(0, 5), (2, 4)]
    assert curves.by_name["mood"].means() == [(0, 1)]
    assert "step" not in curves.by_name
    assert curves.newest() == {"step": 2, "loss": 4, "mood": 1}


def test_speed_and_waiting_are_those_of_the_last_hundred_steps_without_the_first_of_a_process():
    curves = Curves()
    curves.add({"step": 0, "seconds": 90.0, "waited": 89.0})
    for step in range(1, 51):
        curves.add({"step": step, "seconds": 50.0, "waited": 1.0})
    for step in range(51, 151):
        curves.add({"step": step, "seconds": (1.0, 3.0)[step % 2], "waited": 0.5})
    assert (curves.newest()["seconds"], curves.newest()["waited"]) == (2, 0.5)
    curves.start()
    curves.add({"step": 151, "seconds": 90.0, "waited": 89.0})
    curves.add({"step": 152, "seconds": 4.0, "waited": 2.0})
    assert (curves.newest()["seconds"], curves.newest()["waited"]) == (4, 2)
    assert curves.by_name["waiting"].means()[-1] == (152, 0.5)

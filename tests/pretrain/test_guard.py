"""When a run should stop, and when it is told so."""

import math

import pytest
import torch

from simclr.pretrain.guard import (
    PATIENCE,
    CollapseWatch,
    covariance,
    effective_rank,
    spread,
    what_is_wrong,
)


def unit(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(values, dim=1)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (math.nan, "is nan"),
        (math.inf, "is inf"),
        (-math.inf, "is -inf"),
        (20.1, "is 20.1, far above the 9.01 of chance"),
        (19.0, None),
        (9.4, None),
        (0.0, None),
    ],
)
def test_a_loss_is_trusted_up_to_half_the_range_of_similarities_above_chance(loss, words):
    """B 4096, temperature 0.1: chance is log(8191) = 9.01, half the range of similarities over temperature is 10."""
    assert what_is_wrong(loss, batch_size=4096, temperature=0.1) == words


def test_the_rank_of_evenly_used_dimensions_is_their_number():
    basis = torch.eye(6, dtype=torch.float64)
    z = torch.cat([basis, -basis])
    assert effective_rank(covariance(z)) == pytest.approx(6)


def test_the_rank_of_a_line_is_one_and_that_of_a_point_is_zero():
    line = unit(torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]))
    assert effective_rank(covariance(line)) == pytest.approx(1)
    assert effective_rank(covariance(line[:1].expand(5, 3))) == 0


def test_the_spread_of_an_even_scatter_is_one_and_that_of_a_point_is_zero():
    torch.manual_seed(0)
    z = unit(torch.randn(20_000, 16, dtype=torch.float64))
    assert spread(covariance(z)) == pytest.approx(1, abs=0.01)
    assert spread(covariance(z[:1].expand(5, 16))) == pytest.approx(0, abs=1e-12)


HEALTHY = {"rank": 40.0, "spread": 0.9, "entropy": 4.5}


def looks(watch: CollapseWatch, times: int, **signs: float) -> list[str | None]:
    return [watch.look(**(HEALTHY | signs)) for _ in range(times)]


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ({"rank": 1.2}, "they use 1.2 dimensions"),
        ({"spread": 0.01}, "their spread is 0.010 of an even one"),
        ({"entropy": 8.31}, "their contrastive entropy is 8.31 of 8.32"),
    ],
)
def test_each_sign_of_collapse_is_said_once_when_it_is_certain(signs, words):
    watch = CollapseWatch(4096)
    said = looks(watch, PATIENCE + 10, **signs)
    assert [sentence is not None for sentence in said] == [False] * (PATIENCE - 1) + [True] + [False] * 10
    assert words in said[PATIENCE - 1]
    assert watch.said


def test_a_healthy_run_and_a_short_lapse_are_not_reported():
    watch = CollapseWatch(4096)
    for _ in range(5):
        assert looks(watch, PATIENCE - 1, rank=1.0) == [None] * (PATIENCE - 1)
        assert looks(watch, 1) == [None]
    assert not watch.said

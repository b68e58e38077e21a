"""Probabilities: temperature and floor are where a grid finds them, and the error is what a loop counts."""

import numpy as np
import pytest

from simclr.classify.calibration import (
    calibration_error,
    log_loss,
    logit_temperature,
    softmax,
    vote_calibration,
    vote_probabilities,
)


def drawn(count: int = 4000, classes: int = 4, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes drawn with just the probabilities that these logits say."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((count, classes))
    chances = softmax(logits)
    labels = (rng.random((count, 1)) > chances.cumsum(1)).sum(1)
    return logits, labels


@pytest.mark.parametrize("factor", [0.2, 1.0, 7.0])
def test_the_temperature_undoes_what_logits_were_multiplied_with(factor):
    logits, labels = drawn()
    assert logit_temperature(logits * factor, labels) == pytest.approx(factor, rel=0.05)


def test_the_temperature_is_that_of_the_smallest_loss_on_a_grid():
    logits, labels = drawn(300, seed=1)
    grid = np.exp(np.linspace(-1.5, 1.5, 601))
    best = grid[np.argmin([log_loss(softmax(logits / t), labels) for t in grid])]
    assert logit_temperature(logits, labels) == pytest.approx(best, rel=0.01)


def test_nothing_to_calibrate_by_changes_nothing():
    assert logit_temperature(np.empty((0, 3)), np.empty(0, np.int64)) == 1.0
    temperature, floor = vote_calibration(np.empty((0, 3)), np.empty(0, np.int64))
    assert (temperature, floor) == (1.0, 0.5)


def test_a_few_images_that_are_all_right_do_not_make_it_certain():
    sure = np.array([[4.0, 0, 0]] * 10)
    assert 0.3 < logit_temperature(sure, np.zeros(10, np.int64)) <= 1
    temperature, floor = vote_calibration(np.array([[0.8, 0.1, 0.1]] * 10), np.zeros(10, np.int64))
    assert 0.3 < temperature < 1 and floor == pytest.approx(1 / 12)


def test_temperature_and_floor_of_votes_are_no_worse_than_any_on_a_grid():
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=400)
    votes = rng.dirichlet([0.2] * 3, size=400)
    votes[np.arange(400), labels] += rng.random(400)
    votes[:40] = np.eye(3)[(labels[:40] + 1) % 3]  # all votes for a wrong one: without a floor, impossible
    votes /= votes.sum(1, keepdims=True)
    temperature, floor = vote_calibration(votes, labels)
    found = log_loss(vote_probabilities(votes, temperature=temperature, floor=floor), labels)
    grid = [
        log_loss(vote_probabilities(votes, temperature=t, floor=f), labels)
        for t in np.exp(np.linspace(-2, 3, 60))
        for f in np.exp(np.linspace(np.log(1 / 402), np.log(0.5), 60))
    ]
    assert found <= min(grid) + 0.01  # the temperature is held back a little


def test_votes_as_they_are_need_neither():
    votes = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(vote_probabilities(votes, temperature=1.0, floor=0.0), votes)


def test_the_floor_is_spread_over_all_classes():
    found = vote_probabilities(np.array([[1.0, 0.0, 0.0, 0.0]]), temperature=3.0, floor=0.2)
    np.testing.assert_allclose(found, [[0.85, 0.05, 0.05, 0.05]])


def test_the_calibration_error_is_what_a_loop_over_bins_counts():
    rng = np.random.default_rng(3)
    chances = rng.dirichlet([1.0] * 5, size=500)
    labels = rng.integers(5, size=500)
    error = 0.0
    for bin in range(15):
        inside = [i for i in range(500) if bin / 15 < chances[i].max() <= (bin + 1) / 15]
        if inside:
            sure = np.mean([chances[i].max() for i in inside])
            right = np.mean([chances[i].argmax() == labels[i] for i in inside])
            error += len(inside) / 500 * abs(sure - right)
    assert calibration_error(chances, labels) == pytest.approx(error, abs=1e-12)


def test_drawn_from_its_own_probabilities_the_error_is_small_and_twice_as_sure_it_is_not():
    logits, labels = drawn(20_000)
    assert calibration_error(softmax(logits), labels) < 0.02
    assert calibration_error(softmax(3 * logits), labels) > 0.08


def test_the_loss_is_scikit_learns():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = drawn(200)
    assert log_loss(softmax(logits), labels) == pytest.approx(
        sklearn_metrics.log_loss(labels, softmax(logits))
    )

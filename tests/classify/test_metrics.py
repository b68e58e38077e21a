"""Measures, each against a loop that follows its definition, and against scikit-learn where that has it."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from simclr.classify import metrics
from simclr.classify.metrics import (
    average_precision_at_r,
    bootstrap,
    class_scores,
    confusion,
    precision_at,
    recall_at,
)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, 200)


@pytest.fixture
def predicted() -> np.ndarray:
    """Class 4 is predicted and never right, class 5 neither."""
    return np.random.default_rng(1).integers(0, 5, 200)


@pytest.fixture
def right() -> np.ndarray:
    """(50, 30): of each query's 30 nearest, which have its class."""
    return np.random.default_rng(2).random((50, 30)) < 0.3


# ---- predictions


def test_confusion_is_that_of_scikit_learn(labels, predicted):
    np.testing.assert_array_equal(
        confusion(labels, predicted, 6), confusion_matrix(labels, predicted, labels=range(6))
    )


def test_scores_of_classes_are_those_of_scikit_learn(labels, predicted):
    expected = precision_recall_fscore_support(labels, predicted, labels=range(6), zero_division=0)
    scores = class_scores(confusion(labels, predicted, 6))
    found = [[getattr(score, name) for score in scores] for name in ("precision", "recall", "f1", "count")]
    np.testing.assert_allclose(found, expected)


# ---- what was found


@pytest.mark.parametrize("k", [1, 5, 10, 40])
def test_recall_is_whether_one_of_the_nearest_is_right(right, k):
    assert recall_at(right, k).tolist() == [float(any(row[:k])) for row in right.tolist()]


@pytest.mark.parametrize("k", [1, 5, 10])
def test_precision_is_the_share_of_the_nearest_that_is_right(right, k):
    assert precision_at(right, k).tolist() == pytest.approx([sum(row[:k]) / k for row in right.tolist()])


def average_precision_by_loop(row: list[bool], relevant: int) -> float:
    total, hits = 0.0, 0
    for place in range(min(relevant, len(row))):
        if row[place]:
            hits += 1
            total += hits / (place + 1)
    return total / relevant


def test_average_precision_at_r_is_that_of_a_loop(right):
    relevant = np.random.default_rng(3).integers(1, 30, 50)
    expected = [average_precision_by_loop(row, r) for row, r in zip(right.tolist(), relevant, strict=True)]
    assert average_precision_at_r(right, relevant).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("row", "relevant", "value"), [
    ([True, True, False], 2, 1.0),
    ([False, True, True], 2, 0.25),
    ([True, False, True], 2, 0.5),  # the third does not count: R is 2
    ([True, False, True], 3, (1 + 2 / 3) / 3),
    ([False, False, False], 3, 0.0),
])  # fmt: skip
def test_average_precision_at_r_by_hand(row, relevant, value):
    assert average_precision_at_r(np.array([row]), np.array([relevant]))[0] == pytest.approx(value)


def test_a_query_with_nothing_to_find_has_no_average_precision():
    assert np.isnan(average_precision_at_r(np.array([[False]]), np.array([0])))[0]


# ---- uncertainty


def test_the_interval_of_a_mean_is_that_of_theory():
    """Of 400 coin flips the standard error is 0.025."""
    values = np.repeat([0.0, 1.0], 200)
    found = bootstrap(values)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.004)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = [
        (found := bootstrap(rng.random(60), seed=i, draws=400)).low <= 0.5 <= found.high for i in range(300)
    ]
    assert 0.9 <= np.mean(covered) <= 0.985


def test_drawing_in_parts_changes_nothing_but_the_draws(monkeypatch):
    values = np.random.default_rng(5).random(300)
    whole = bootstrap(values)
    monkeypatch.setattr(metrics, "_AT_ONCE", 1000)
    parts = bootstrap(values)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.005)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(6).random(50)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_a_constant_has_no_uncertainty():
    assert bootstrap(np.ones(9)) == metrics.Interval(1.0, 1.0, 1.0)

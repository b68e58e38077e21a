"""What was predicted and found, and what is right -> measures, each with its uncertainty. Pure numpy.

Shape letters: Q = queries, N = images that can be found, R = found ones, C = classes, B = draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Bootstrap samples: the ends of a 95 % interval then differ by some hundredths of its length from seed to seed."""
_AT_ONCE = 1 << 22
"""Random numbers drawn at once."""


@dataclass(frozen=True)
class Interval:
    """A mean, and where 95 % of the means of as many other queries would lie."""

    value: float
    low: float
    high: float

    @property
    def words(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(values_Q: NDArray[np.floating], *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The mean over queries with its 95 % percentile interval (Efron 1979): queries drawn with replacement.

    For a difference of two encoders pass the differences of the same queries: the interval is that of the paired difference.
    """
    count = len(values_Q)
    assert count
    rng = np.random.Generator(np.random.PCG64(seed))
    means, step = [], max(1, _AT_ONCE // count)
    for start in range(0, draws, step):
        picked = rng.integers(count, size=(min(step, draws - start), count))
        means.append(values_Q[picked].mean(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(values_Q.mean()), float(low), float(high))


# ---- predictions


def confusion(labels_Q: NDArray[np.int64], predicted_Q: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(C, C) how many of each class (row) were taken for which (column)."""
    table_CC = np.zeros((classes, classes), np.int64)
    np.add.at(table_CC, (labels_Q, predicted_Q), 1)
    return table_CC


@dataclass(frozen=True)
class ClassScore:
    """How one class fared; a share of nothing is 0, as in scikit-learn."""

    count: int
    """Queries of it."""
    precision: float
    """Share of those taken for it that are of it."""
    recall: float
    """Share of its queries taken for it."""

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def class_scores(table_CC: NDArray[np.int64]) -> list[ClassScore]:
    """Of each class of a confusion matrix."""
    right_C, rows_C, columns_C = np.diag(table_CC), table_CC.sum(1), table_CC.sum(0)
    return [
        ClassScore(int(count), float(right / max(1, taken)), float(right / max(1, count)))
        for right, count, taken in zip(right_C, rows_C, columns_C, strict=True)
    ]


# ---- what was found


def recall_at(right_QR: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """(Q,) 1 where one of the k nearest has the query's class (recall@k of metric learning: Jégou et al. 2011), else 0."""
    found: NDArray[np.float64] = np.where(right_QR[:, :k].any(1), 1.0, 0.0)
    return found


def precision_at(right_QR: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """(Q,) share of the k nearest that have the query's class; of all where fewer were found."""
    found: NDArray[np.float64] = right_QR[:, :k].sum(1) / min(k, right_QR.shape[1])
    return found


def average_precision_at_r(right_QR: NDArray[np.bool_], relevant_Q: NDArray[np.int64]) -> NDArray[np.float64]:
    """(Q,) MAP@R before the mean (Musgrave et al. 2020, arXiv:2003.08505, eq. 3).

    1/R times the sum, over the R nearest, of the precision at each right one; R is `relevant_Q`, how many of a query's class there are to
    find. 1 if the R nearest are all right. A query with nothing to find has no value, which is no number.
    """
    ranks_R = np.arange(1, right_QR.shape[1] + 1)
    counted_QR = right_QR & (ranks_R <= relevant_Q[:, None])
    precision_QR = np.cumsum(right_QR, 1) / ranks_R
    sums_Q = (precision_QR * counted_QR).sum(1)
    found: NDArray[np.float64] = np.divide(
        sums_Q, relevant_Q, out=np.full(len(sums_Q), np.nan), where=relevant_Q > 0
    )
    return found

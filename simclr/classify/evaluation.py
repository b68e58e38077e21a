"""How well vectors tell classes apart: votes among neighbours, a linear probe, retrieval, and all that with few labels.

One encoder or several on the same images, so that what one finds more than another can be told from chance.

Shape letters: N = training images, Q = test images, D = width, K = neighbours, C = classes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr.classify.examples import Examples
from simclr.classify.knn import neighbours, votes
from simclr.classify.metrics import (
    Interval,
    average_precision_at_r,
    bootstrap,
    confusion,
    precision_at,
    recall_at,
)
from simclr.classify.probe import fit_probe
from simclr.classify.splits import share_of_labels

VOTERS = (1, 10, 20, 200)
"""Neighbours that vote. Counts above that of the training images are left out."""
FEW = (1.0, 10.0)
"""Percent of the labels that are also tried, as in Chen et al. 2020 (arXiv:2002.05709), table 7."""
FEW_VOTERS = 20
"""Neighbours that vote where labels are few."""
DEPTHS = (1, 5, 10)
"""Neighbours among which one of the class must be (recall), or that are counted (precision, the last)."""

Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one encoder reached. Values of the test images are kept, so that two encoders can be compared image by image."""

    values: dict[str, NDArray[np.float64]]
    """Measure -> (Q,) in 0..1; no number for an image that has no value."""
    few: dict[float, dict[str, NDArray[np.float64]]]
    """Percent of the labels -> the same, of some measures."""
    confusion_CC: NDArray[np.int64]
    """Of the linear probe: rows are the classes, columns what they were taken for."""
    strength: float
    """Of the probe's regularisation, as chosen."""

    @property
    def rows(self) -> dict[str, NDArray[np.float64]]:
        """All measures in one, those of few labels under names that say so."""
        few = {f"{name}, {percent:g} % of labels": values_Q for percent, part in self.few.items() for name, values_Q in part.items()}  # fmt: skip
        return self.values | few


def evaluate(examples: Examples, *, seed: int = 0, note: Note = lambda line: None) -> Evaluation:
    """All measures of one encoder. Raises MissingExtra without scikit-learn."""
    note(f"neighbours of {len(examples.test_Q):,} images among {len(examples.train_N):,}")
    values = _by_neighbours(examples)
    note(f"linear probe on {len(examples.train_N):,} images")
    probed, predicted_Q, strength = _by_probe(examples, seed=seed)
    few = {}
    for percent in FEW:
        rows = share_of_labels(examples.train_N, percent, seed=seed)
        if len(rows) < len(examples.train_N):
            note(f"{percent:g} % of the labels: {len(rows):,} images")
            few[percent] = _by_few(examples.fewer(rows), seed=seed)
    table_CC = confusion(examples.test_Q, predicted_Q, len(examples.classes))
    return Evaluation(values | probed, few, table_CC, strength)


def interval(values_Q: NDArray[np.float64]) -> Interval:
    """Of those that have a value."""
    return bootstrap(values_Q[~np.isnan(values_Q)])


def differences(one: Evaluation, other: Evaluation) -> dict[str, Interval]:
    """What the other reached more, measure by measure, on the same test images. Beyond chance where 0 is not in the interval."""
    theirs = other.rows
    return {name: interval(theirs[name] - values_Q) for name, values_Q in one.rows.items()}


def _by_neighbours(examples: Examples) -> dict[str, NDArray[np.float64]]:
    """Votes and retrieval, in one pass over the test images."""
    sizes_C = np.bincount(examples.train_N, minlength=len(examples.classes))
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for block in _ranked(examples, max(*VOTERS, *DEPTHS, int(sizes_C.max()))):
        right_QK = block.labels_QK == block.own_Q[:, None]
        measured = {_voters(k): block.right(k) for k in VOTERS if k <= len(examples.train_N)}
        measured |= {f"recall@{k}": recall_at(right_QK, k) for k in DEPTHS}
        measured[f"precision@{DEPTHS[-1]}"] = precision_at(right_QK, DEPTHS[-1])
        measured["mAP@R"] = average_precision_at_r(right_QK, sizes_C[block.own_Q])
        for name, values_Q in measured.items():
            parts.setdefault(name, []).append(values_Q)
    return {name: np.concatenate(values) for name, values in parts.items()}


@dataclass(frozen=True, eq=False)
class _Ranked:
    """Some test images, and their nearest among the training images, best first."""

    classes: int
    own_Q: NDArray[np.int64]
    similarities_QK: NDArray[np.float32]
    labels_QK: NDArray[np.int64]

    def right(self, k: int) -> NDArray[np.float64]:
        """(Q,) 1 where a vote of the k nearest gives the class, else 0."""
        votes_QC = votes(self.similarities_QK[:, :k], self.labels_QK[:, :k], self.classes)
        found: NDArray[np.float64] = (votes_QC.argmax(1) == self.own_Q).astype(np.float64)
        return found


def _ranked(examples: Examples, k: int) -> Iterator[_Ranked]:
    start = 0
    for similarities_QK, places_QK in neighbours(examples.train_ND, examples.test_QD, k=k):
        own_Q = examples.test_Q[start : start + len(places_QK)]
        yield _Ranked(len(examples.classes), own_Q, similarities_QK, examples.train_N[places_QK])
        start += len(places_QK)


def _voters(k: int) -> str:
    return f"kNN, k = {k}"


def _by_few(examples: Examples, *, seed: int) -> dict[str, NDArray[np.float64]]:
    right = [block.right(FEW_VOTERS) for block in _ranked(examples, FEW_VOTERS)]
    return {_voters(FEW_VOTERS): np.concatenate(right)} | _by_probe(examples, seed=seed)[0]


def _by_probe(
    examples: Examples, *, seed: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64], float]:
    """Whether each test image is right, its predicted class, and the chosen strength."""
    classes = len(examples.classes)
    probe = fit_probe(examples.train_ND, examples.train_N, classes, seed=seed)
    logits_QC = probe.logits(examples.test_QD)
    predicted_Q = logits_QC.argmax(1)
    found = {"linear probe": (predicted_Q == examples.test_Q).astype(np.float64)}
    if classes > 5:
        top_Q5 = np.argpartition(-logits_QC, 4, axis=1)[:, :5]
        found["linear probe, top 5"] = (top_Q5 == examples.test_Q[:, None]).any(1).astype(np.float64)
    return found, predicted_Q, probe.strength

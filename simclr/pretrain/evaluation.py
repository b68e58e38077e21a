"""How good an encoder is while it trains, on a folder of labelled images: the accuracy of a vote among neighbours.

Built once, before training, so that bad labels are said then. Uses the encoder and leaves it as it was.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from simclr.preprocess import Recipe
from simclr.pretrain.features import EvaluationPixels, unit_features
from simclr.pretrain.in_workers import default_workers
from simclr.pretrain.labels import Labelled, at_most, read_labelled
from simclr.pretrain.monitor import knn_accuracy

MOST_TO_VOTE = 50_000
"""Training images that vote; of larger sets each class gives its share. All of CIFAR-10's."""
MOST_QUERIES = 10_000
"""Images that are asked about. All of CIFAR-10's test."""


class Evaluation:
    """`train` and `test` (None where the folder has no such split) are the labelled images, all of them."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        *,
        workers: int | None = None,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`workers` decode; None: one a core, at most 16. `note` is told what is left out.

        Raises ConfigError or ImageError if the labels make no sense.
        """
        self.train: Labelled
        self.test: Labelled | None
        self.train, self.test = read_labelled(folder)
        self._note = note
        self._noted: set[str] = set()
        workers = default_workers() if workers is None else workers
        bank = at_most(self.train, MOST_TO_VOTE)
        self._bank = EvaluationPixels(bank, recipe, workers=workers)
        self._queries: EvaluationPixels | None = None
        if self.test is not None:
            self._queries = EvaluationPixels(at_most(self.test, MOST_QUERIES), recipe, workers=workers)
        judged = "each judged by the others: there is no test split"
        if self._queries is not None:
            judged = f"and {len(self._queries.images):,} test images to judge"
        note(f"kNN accuracy on {folder}: {len(bank):,} images of {len(bank.classes)} classes, {judged}")

    def accuracy(self, encoder: nn.Module, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
        """{"knn": share of right classes}; `dtype` is that of the encoder's arithmetic.

        With a test split its images are asked about; else each training image, judged by the others.
        """
        bank_ND, bank_labels_N = unit_features(encoder, self._bank, device=device, dtype=dtype)
        if self._queries is None:
            knn = knn_accuracy(bank_ND, bank_labels_N)
        else:
            queries_QD, labels_Q = unit_features(encoder, self._queries, device=device, dtype=dtype)
            knn = knn_accuracy(bank_ND, bank_labels_N, queries_QD, labels_Q)
        for pixels in (self._bank, self._queries):
            for path, why in pixels.unreadable.items() if pixels else ():
                if path not in self._noted:
                    self._noted.add(path)
                    self._note(f"skipped {path}: {why}")
        return {"knn": knn}

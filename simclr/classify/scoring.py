"""A classifier and labelled images -> how good it is on them.

Shape letters: Q = images, S = rows of a shard, C = classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.classify.classifier import Classifier
from simclr.classify.fitting import measures
from simclr.classify.labels import Labels, read_labels
from simclr.classify.metrics import confusion
from simclr.embed.store import Store
from simclr.errors import ConfigError

Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Scored:
    measured: dict[str, Any]
    """As `fitting.measures` gives them."""
    confusion_CC: NDArray[np.int64]
    """Rows are the classes of the classifier, columns what they were taken for."""


def score(
    classifier: Classifier, store: Store, where: str | Path, *, note: Note = lambda line: None
) -> Scored:
    """`where`: class folders or a table; of a table with a column split, only the images to test on.

    Raises ConfigError where the labels make no sense, or have a class that the classifier does not know.
    """
    labels = read_labels(store, where, note=note)
    known = {name: number for number, name in enumerate(classifier.info.classes)}
    rows_Q, own_Q = _asked(labels)
    if unknown := sorted({labels.classes[i] for i in np.unique(own_Q)} - set(known)):
        raise ConfigError(
            f"{where}: {len(unknown):,} classes are unknown to the classifier ({unknown[0]!r}). "
            f"It knows {', '.join(classifier.info.classes[:5])}{', ...' if len(known) > 5 else ''}. Use the same names, or fit it again."
        )
    if labels.tests_N is None and store.info.uid == classifier.info.store_uid:
        note(
            f"{store.folder} is what the classifier was fitted to, so it has seen these images. What it is worth on others was measured when it was fitted."
        )
    numbers_C = np.array([known.get(name, -1) for name in labels.classes])
    labels_Q = numbers_C[own_Q]
    probabilities_QC = np.empty((len(rows_Q), len(known)))
    unlike_Q = np.empty(len(rows_Q))
    seen = 0
    for _, vectors_SD in store.blocks(verify=True):
        here = (rows_Q >= seen) & (rows_Q < seen + len(vectors_SD))
        if here.any():
            found = classifier.predict(vectors_SD[rows_Q[here] - seen])
            probabilities_QC[here], unlike_Q[here] = found.probabilities_QC, found.unlike_Q
        seen += len(vectors_SD)
    table_CC = confusion(labels_Q, probabilities_QC.argmax(1), len(known))
    return Scored(measures(probabilities_QC, labels_Q, unlike_Q), table_CC)


def _asked(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the store, and the places of their classes: the test images, or all where nothing says which test."""
    which_N = np.ones(len(labels), np.bool_) if labels.tests_N is None else labels.tests_N
    return labels.rows_N[which_N], labels.labels_N[which_N]

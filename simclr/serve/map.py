"""A sample of a collection -> its map, as the page shows it."""

import numpy as np
from numpy.typing import NDArray

from simclr.classify.projection import projected
from simclr.embed.index.library import unit_vectors
from simclr.serve.background import Progress
from simclr.serve.collection import Served
from simclr.serve.models import Map

SAMPLE = 3000
"""Images on the map: laying out so many takes some 10 s on one core, and a browser draws them at once."""


def mapped(served: Served, progress: Progress) -> Map:
    """The map of a state of the collection; the same sample each time."""
    ids = sample(served.index.lookup.ids, SAMPLE)
    vectors_ND = unit_vectors(served.index.lookup.vectors(ids))
    progress(f"laying out {len(ids):,} images", 0, 0)
    places_N2, method = projected(vectors_ND)
    labels = None
    if served.classifier is not None:
        labels = served.classifier.predict(vectors_ND).probabilities_QC.argmax(1).tolist()
    return Map(
        ids=ids.tolist(),
        x=places_N2[:, 0].round(4).tolist(),
        y=places_N2[:, 1].round(4).tolist(),
        labels=labels,
        classes=list(served.classifier.info.classes) if served.classifier is not None else [],
        images=len(served.index.lookup),
        method=method,
    )


def sample(ids: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Rising, all where there are no more than `most`."""
    if len(ids) <= most:
        return ids
    found: NDArray[np.int64] = np.sort(np.random.default_rng(0).choice(ids, most, replace=False))
    return found

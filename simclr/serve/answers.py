"""What was found -> what goes over the wire. Looks up paths and sizes; searches nothing."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from simclr.embed import Hit
from simclr.embed.index.library import unit_vectors
from simclr.embed.shards import Row
from simclr.serve import models
from simclr.serve.asking import Answer
from simclr.serve.collection import Served

_CLASSES = 10
"""Of an image, the likeliest, that are said."""


def found(served: Served, answer: Answer, *, classes: bool, of_query: bool) -> models.Found:
    """`classes`: with what the classifier makes of each hit. `of_query`: and of what was looked for."""
    return models.Found(
        hits=hits(served, answer.hits, classes=classes),
        predicted=predicted(served, answer.query[None])[0] if of_query else None,
        generation=served.generation,
    )


def hits(served: Served, found: Sequence[Hit], *, classes: bool) -> list[models.Hit]:
    """`classes`: with what the classifier makes of each."""
    ids = np.array([hit.id for hit in found], np.int64)
    sizes = served.index.lookup.sizes(ids).tolist()
    labels = _labels(served, ids) if classes else [None] * len(ids)
    return [
        models.Hit(
            rank=rank,
            id=hit.id,
            path=printable(hit.path),
            similarity=round(hit.similarity, 6),
            width=width,
            height=height,
            predicted=label,
        )
        for rank, (hit, (width, height), label) in enumerate(zip(found, sizes, labels, strict=True), 1)
    ]


def images(served: Served, ids: NDArray[np.int64], *, classes: bool) -> list[models.Image]:
    lookup = served.index.lookup
    labels = _labels(served, ids) if classes else [None] * len(ids)
    rows = zip(ids.tolist(), lookup.paths(ids), lookup.sizes(ids).tolist(), labels, strict=True)
    return [
        models.Image(id=id, path=printable(path), width=width, height=height, predicted=label)
        for id, path, (width, height), label in rows
    ]


def details(served: Served, row: Row) -> models.Details:
    path = served.store.path(row)
    vector = unit_vectors(served.index.lookup.vectors(np.array([row.id])))[0]
    shares = classified(served, vector).classes if served.classifier is not None else []
    remote = "://" in path
    modified = None if remote else datetime.fromtimestamp(row.mtime_ns // 10**9, UTC).isoformat()
    return models.Details(
        id=row.id,
        path=printable(path),
        width=row.width,
        height=row.height,
        size=row.size,
        modified=modified,
        content_hash=row.content_hash,
        classes=shares,
        predicted=None,
    )


def classified(served: Served, vector_D: NDArray[np.float32]) -> models.Classified:
    """What the classifier, which there must be, makes of an image."""
    assert served.classifier is not None
    found = served.classifier.predict(vector_D[None])
    best = np.argsort(-found.probabilities_QC[0], kind="stable")[:_CLASSES].tolist()
    return models.Classified(
        classes=[
            models.Share(
                label=served.classifier.info.classes[place],
                probability=round(float(found.probabilities_QC[0, place]), 6),
            )
            for place in best
        ],
        unlike=round(float(found.unlike_Q[0]), 6),
    )


def predicted(served: Served, vectors_QD: NDArray[np.float32]) -> list[models.Predicted | None]:
    """Of each, its likeliest class; None without a classifier."""
    if served.classifier is None:
        return [None] * len(vectors_QD)
    found = served.classifier.predict(vectors_QD)
    best_Q = found.probabilities_QC.argmax(1)
    rows = zip(best_Q.tolist(), found.probabilities_QC.max(1).tolist(), found.unlike_Q.tolist(), strict=True)
    classes = served.classifier.info.classes
    return [
        models.Predicted(label=classes[best], probability=round(chance, 6), unlike=round(unlike, 6))
        for best, chance, unlike in rows
    ]


def printable(path: str) -> str:
    """Names that are no UTF-8 hold halves of surrogate pairs, which JSON cannot carry."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _labels(served: Served, ids: NDArray[np.int64]) -> list[models.Predicted | None]:
    if served.classifier is None or not len(ids):
        return [None] * len(ids)
    return predicted(served, unit_vectors(served.index.lookup.vectors(ids)))

"""Some vectors of a store -> a FAISS index that is ready to be filled. Adds nothing to it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.embed import shards
from simclr.embed.index.anatomy import Anatomy, empty_index, said
from simclr.embed.index.library import faiss_library, gpus, unit_vectors
from simclr.embed.store import Store
from simclr.errors import ConfigError

PER_LIST = 64
"""Vectors for each inverted list that is to be found. FAISS takes 256 at most and warns below 39; the lists of 100,000 x 512 vectors
gave the same recall with 64 as with 256."""
FOR_CODES = 20_000
"""Vectors from which the ranges of scalar quantisers and the codebooks of product quantisers are learned."""
_ROUNDS = 10
"""Of k-means, FAISS's own number for inverted lists."""


def sample(store: Store, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, width) unit vectors of rows of a store, which rise and count through its shards; only these are read."""
    vectors, start = np.empty((len(rows), store.info.width), np.float32), 0
    for shard in store.info.shards:
        here = (rows >= start) & (rows < start + shard.rows)
        if here.any():
            stored = shards.read_vectors(store.folder, shard, mapped=True)[rows[here] - start]
            vectors[here] = unit_vectors(stored)
        start += shard.rows
    return vectors


def find_centroids(vectors: NDArray[np.float32], lists: int) -> NDArray[np.float32]:
    """(lists, width) unit centroids of unit vectors (N, width), by spherical k-means; on the GPUs that FAISS can use."""
    faiss = faiss_library()
    settings = faiss.ClusteringParameters()
    settings.niter, settings.spherical, settings.seed = _ROUNDS, True, 1
    settings.min_points_per_centroid, settings.max_points_per_centroid = 1, len(vectors)
    clustering = faiss.Clustering(vectors.shape[1], lists, settings)
    assignment = faiss.IndexFlatIP(vectors.shape[1])
    clustering.train(vectors, faiss.index_cpu_to_all_gpus(assignment) if gpus() else assignment)
    centroids: NDArray[np.float32] = faiss.vector_to_array(clustering.centroids)
    return centroids.reshape(lists, vectors.shape[1])


def trained_index(
    factory: str, vectors: NDArray[np.float32], centroids: NDArray[np.float32] | None = None
) -> Any:
    """An empty index, trained by unit vectors (N, width). Raises ConfigError for a factory string that cannot be.

    `centroids` are those of its inverted lists, if they are known; otherwise they are found among the vectors.
    """
    index = empty_index(vectors.shape[1], factory)
    try:
        _train(index, vectors, centroids)
    except RuntimeError as exc:
        raise ConfigError(
            f"index type {factory}: cannot be trained with {len(vectors):,} vectors ({said(exc)}). Use auto, or a smaller one."
        ) from exc
    return index


def _train(index: Any, vectors: NDArray[np.float32], centroids: NDArray[np.float32] | None) -> None:
    anatomy = Anatomy.of(index)
    _prepare(index)
    if anatomy.ivf is not None and not anatomy.transformed and _is_flat(anatomy.ivf.quantizer):
        if centroids is None or len(centroids) != anatomy.ivf.nlist:
            centroids = find_centroids(vectors, anatomy.ivf.nlist)
        anatomy.ivf.quantizer.add(centroids)
        vectors = vectors[:: max(1, len(vectors) // FOR_CODES)]
    index.train(vectors)


def _is_flat(quantizer: Any) -> bool:
    return type(faiss_library().downcast_index(quantizer)).__name__ in ("IndexFlat", "IndexFlatIP")


def _prepare(index: Any) -> None:
    """FAISS warns once for each part of a product quantiser, up to a thousand times, where vectors are few; and it spends
    minutes on an order of the codes that only its polysemous search uses."""
    faiss = faiss_library()
    part = faiss.downcast_index(index)
    while True:
        if hasattr(part, "do_polysemous_training"):
            part.do_polysemous_training = False
        for settings in (getattr(part, "cp", None), getattr(getattr(part, "pq", None), "cp", None)):
            if settings is not None:
                settings.min_points_per_centroid = 1
        if not hasattr(part, "index"):
            return
        part = faiss.downcast_index(part.index)

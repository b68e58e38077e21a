"""What an index has found -> the same ids by their true cosine, best first. The one place where similarities come from.

An index compares codes; the store has the vectors. Whatever the index, a reported similarity is the cosine of the query with
the stored vector, in float32. Searches nothing.

Shape letters: Q = queries, D = width, R = ids to rank.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.embed.index.library import one_thread, to_float32
from simclr.embed.lookup import Lookup

_BLOCK_NUMBERS = 1 << 20
"""Numbers of stored vectors that a thread compares at once: 4 MB as float32."""


def rerank(
    lookup: Lookup, queries: NDArray[np.float32], ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit queries (Q, D) and ids (Q, R) in any order -> cosines and ids (Q, R), best first, equal ones by id.

    Ids that the store does not hold come last, as -1 with -inf.
    """
    similarities = np.full(ids.shape, -np.inf, np.float32)
    if not len(lookup) or not ids.size:
        return similarities, np.full_like(ids, -1)
    step = max(1, _BLOCK_NUMBERS // (queries.shape[1] * ids.shape[1]))

    def compare(start: int) -> None:
        part = slice(start, start + step)
        similarities[part] = _cosines(lookup, queries[part], ids[part])

    if len(queries) <= step:
        compare(0)
    else:
        with ThreadPoolExecutor(available_cpus(), initializer=one_thread) as pool:
            list(pool.map(compare, range(0, len(queries), step)))
    ids = np.where(similarities == -np.inf, -1, ids)
    order = np.lexsort((ids, -similarities))
    return np.take_along_axis(similarities, order, 1), np.take_along_axis(ids, order, 1)


def _cosines(
    lookup: Lookup, queries_QD: NDArray[np.float32], ids_QR: NDArray[np.int64]
) -> NDArray[np.float32]:
    held_QR = lookup.holds(ids_QR)
    stored = lookup.vectors(np.where(held_QR, ids_QR, lookup.ids[0]).ravel())
    vectors_QRD = to_float32(stored).reshape(*ids_QR.shape, -1)
    products_QR = np.einsum("qd,qrd->qr", queries_QD, vectors_QRD)
    lengths_QR = np.sqrt(np.einsum("qrd,qrd->qr", vectors_QRD, vectors_QRD))  # float16 rounds lengths
    cosines_QR: NDArray[np.float32] = products_QR / np.maximum(lengths_QR, np.float32(1e-12))
    cosines_QR[~held_QR] = -np.inf
    return cosines_QR

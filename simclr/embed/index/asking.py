"""Queries -> the entries that a FAISS index holds for nearest, by its own reckoning. True similarities are `rerank.py`'s.

Shape letters: Q = queries, D = width, K = entries asked for.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.library import faiss_library

EFFORTS = ("nprobe", "efSearch")
_TABLES = 1 << 28
"""Bytes that the tables of fast-scan may take: without a bound 500 queries in 2,048 lists of 2048 numbers took 5 GB."""


def nearest(
    index: Any,
    queries: NDArray[np.float32],
    k: int,
    *,
    effort: int = 0,
    allowed: NDArray[np.int64] | None = None,
    buried: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(Q, D) unit vectors -> inner products as the index estimates them and ids, (Q, K), best first; id -1 where there are fewer.

    `effort`: inverted lists looked into, or HNSW's beam (then at least K); 0 is the index's own. `allowed`: only these ids.
    `buried`: whether the index has buried entries, which must not take the places of others.
    """
    faiss_library()  # with the cores of this process, on this thread
    anatomy = Anatomy.of(index)
    selector = _selector(allowed, buried and anatomy.filters)
    keywords: dict[str, Any] = {} if selector is None else {"sel": selector}
    if anatomy.effort and effort:
        keywords[anatomy.effort] = max(effort, k) if anatomy.hnsw else min(effort, anatomy.most_effort)
    parameters = _parameters(anatomy, keywords) if keywords else None
    queries = np.ascontiguousarray(queries, np.float32)
    step = _at_once(anatomy, keywords.get("nprobe", 1))
    found = [index.search(queries[i : i + step], k, params=parameters) for i in range(0, len(queries), step)]
    del selector  # FAISS holds no reference to it: it lives until here
    if len(found) == 1:
        return found[0]  # type: ignore[no-any-return]
    if not found:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    products, ids = zip(*found, strict=True)
    return np.concatenate(products), np.concatenate(ids)


def _at_once(anatomy: Anatomy, lists: int) -> int:
    """Queries that may be asked together: fast-scan makes tables of 20 bytes a number for each query and list, all at once."""
    if anatomy.ivf is None or not anatomy.fast_scan:
        return 1 << 30
    return max(1, _TABLES // (20 * int(anatomy.index.d) * lists))


def _selector(allowed: NDArray[np.int64] | None, buried: bool) -> Any:
    faiss = faiss_library()
    if allowed is not None:
        bits = np.zeros(int(allowed.max(initial=0)) // 8 + 1, np.uint8)
        np.bitwise_or.at(bits, allowed >> 3, (1 << (allowed & 7)).astype(np.uint8))
        return faiss.IDSelectorBitmap(bits)
    return faiss.IDSelectorRange(0, np.iinfo(np.int64).max) if buried else None


def _parameters(anatomy: Anatomy, keywords: dict[str, Any]) -> Any:
    """Of the class that FAISS wants for this index; IDMaps pass it on."""
    faiss = faiss_library()
    if anatomy.ivf is not None:
        made = faiss.SearchParametersIVF(**keywords)
    elif anatomy.hnsw:
        made = faiss.SearchParametersHNSW(**keywords)
    else:
        made = faiss.SearchParameters(**keywords)
    return faiss.SearchParametersPreTransform(index_params=made) if anatomy.transformed else made

"""Vectors -> a FAISS index; save, verify, load, ask. The only file of `embed` that says `faiss`.

An index is derived: it can always be built again from its store. `out.faiss` is FAISS's own format; the sidecar
`out.faiss.json` says what it was built from and what it measured.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import IndexInfo, file_sha256, write_atomically
from simclr.cpus import available_cpus
from simclr.embed.recall import exact_neighbours, recall_at_k, true_similarities
from simclr.embed.store import Store
from simclr.errors import ArtifactError, ImageError, MissingExtra

FACTORY = "IDMap2,Flat"
"""Exact inner product over the store's ids."""
_QUERIES = 200
"""Vectors that an index is measured with."""


def sidecar(index: Path) -> Path:
    return index.with_name(index.name + ".json")


def build_index(store: Store, path: Path) -> IndexInfo:
    """Build, measure and save the index of a store; both files are replaced whole.

    Every shard is checked against its SHA-256 on the way. Raises ImageError if the store is empty, ArtifactError
    if a shard is damaged.
    """
    if not len(store):
        raise ImageError(
            f"{store.folder}: holds no vectors, so there is nothing to index. See {store.folder}/skipped.csv."
        )
    faiss = _faiss()
    index = faiss.index_factory(store.info.width, FACTORY, faiss.METRIC_INNER_PRODUCT)
    for ids, vectors in store.blocks(verify=True):
        index.add_with_ids(vectors, ids)
    write_atomically(path, lambda temporary: faiss.write_index(index, str(temporary)))
    info = IndexInfo(
        sha256=file_sha256(path),
        generation=store.info.generation,
        store=os.path.relpath(store.folder.resolve(), path.resolve().parent),
        store_uid=store.info.uid,
        identity=store.info.identity,
        width=store.info.width,
        size=index.ntotal,
        factory=FACTORY,
        search_parameters={},
        measured=_measure(index, store, path),
    )
    info.save(sidecar(path))
    return info


def update_index(store: Store, path: Path) -> IndexInfo:
    """The index as it is where it is whole and in step with the store; built anew otherwise."""
    try:
        _, info = load_index(path)
    except ArtifactError:  # missing or damaged: an index is derived, so building it is the repair
        return build_index(store, path)
    in_step = (info.store_uid, info.generation) == (store.info.uid, store.info.generation)
    same_path = (path.resolve().parent / info.store).resolve() == store.folder.resolve()
    return info if in_step and same_path else build_index(store, path)


def load_index(path: Path) -> tuple[Any, IndexInfo]:
    """The FAISS index and its sidecar. Raises ArtifactError if either is missing, or the SHA-256 disagrees.

    FAISS reads damaged files without complaint, or crashes on them; the checksum alone keeps them out.
    """
    faiss = _faiss()
    if not path.exists():
        raise ArtifactError(f"{path}: no such index. Make one with `simclr embed FOLDER --index {path}`.")
    info = IndexInfo.load(sidecar(path))
    if file_sha256(path) != info.sha256:
        raise ArtifactError(
            f"{path}: damaged or replaced, its SHA-256 is not the one in {sidecar(path).name}. Run `simclr embed` again to rebuild it."
        )
    return faiss.read_index(str(path)), info


def nearest(
    index: Any, queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(Q, D) unit vectors -> inner products and ids, (Q, k) each, best first; id -1 where there are fewer than k."""
    _faiss()
    products, ids = index.search(np.ascontiguousarray(queries, np.float32), k)
    return products, ids


def _measure(index: Any, store: Store, path: Path) -> dict[str, Any]:
    """Recall against exact search, latency and memory, with vectors of the store as queries, each without itself."""
    ids, vectors = _sample(store, _QUERIES)
    truth = exact_neighbours(store.blocks(), vectors, k=11)
    _, found_ids = nearest(index, vectors, 11)
    found = (true_similarities(store.blocks(), vectors, found_ids), found_ids)
    started = time.perf_counter()
    for vector in vectors[:20]:
        nearest(index, vector[None], 10)
    latency = (time.perf_counter() - started) / len(vectors[:20])
    return {
        "recall@10": round(recall_at_k(found, truth, ids, k=10), 4),
        "latency_ms": round(latency * 1e3, 3),
        "bytes": path.stat().st_size,
        "queries": len(vectors),
        "how": "vectors of the store as queries, each without itself, against exact search; one query at a time",
        "threads": available_cpus(),
    }


def _sample(store: Store, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Up to so many rows, spread evenly over the store, always the same."""
    wanted = np.unique(np.linspace(0, len(store) - 1, min(count, len(store))).astype(np.int64))
    ids, vectors, start = [], [], 0
    for block_ids, block in store.blocks():
        here = wanted[(wanted >= start) & (wanted < start + len(block))] - start
        ids.append(block_ids[here])
        vectors.append(block[here])
        start += len(block)
    return np.concatenate(ids), np.concatenate(vectors)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss", "cpu") from None
    faiss.omp_set_num_threads(available_cpus())  # its default is the host's cores
    return faiss

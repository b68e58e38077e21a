"""autofaiss on vectors in .npy files: run by `index_choice.py` with an interpreter that has it, and faiss 1.8 with numpy 1. Not part of the
package, and imports nothing of it.

    autofaiss_rival.py build FOLDER --memory 60000000 --index NAME    one JSON line: what it chose, seconds, bytes
    autofaiss_rival.py ask FOLDER --index NAME --param nprobe=8       one JSON line: recall@10, queries a second, latency

FOLDER holds vectors.npy (N, D), queries.npy (Q, D) and tenth.npy (Q,), the similarity of each query's tenth neighbour; the index is
written there, too. Everything is autofaiss's default but for the memory, the cores and `ip`; its results are taken as they come.

Shape letters: N = vectors, Q = queries, D = width, K = neighbours.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np

THREADS = 2
K, DEEP = 10, 100
TIE = 1e-5
"""As in `simclr.embed.exact`."""
SINGLE = 200
"""Queries asked alone."""


def build(folder: Path, name: str, memory: int) -> dict[str, Any]:
    from autofaiss import build_index

    vectors_ND = np.load(folder / "vectors.npy")
    started = time.perf_counter()
    index, infos = build_index(
        vectors_ND,
        index_path=str(folder / name),
        index_infos_path=str(folder / f"{name}.infos"),
        max_index_memory_usage=f"{memory // 1000}KB",
        max_index_query_time_ms=10.0,
        current_memory_available="8GB",
        metric_type="ip",
        nb_cores=THREADS,
    )
    seconds = time.perf_counter() - started
    if index is None:
        return {"key": None, "seconds": seconds}
    return {
        "key": infos["index_key"],
        "param": infos["index_param"],
        "seconds": seconds,
        "bytes": os.path.getsize(folder / name),
    }


def ask(folder: Path, name: str, param: str) -> dict[str, Any]:
    """`recall@10` is that of its ten results; `recall_of_100` what ranking a hundred of them again by true similarity would give."""
    vectors_ND, queries_QD = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "queries.npy")
    tenth_Q = np.load(folder / "tenth.npy")
    index = faiss.read_index(str(folder / name))
    faiss.ParameterSpace().set_index_parameters(index, param)

    def recall(ids_QK: np.ndarray) -> float:
        found = 0
        for query, ids, tenth in zip(queries_QD, ids_QK, tenth_Q, strict=True):
            found += min(K, int((vectors_ND[ids[ids >= 0]] @ query >= tenth - TIE).sum()))
        return found / (K * len(queries_QD))

    index.search(queries_QD[:8], K)
    started = time.perf_counter()
    _, ids_QK = index.search(queries_QD, K)
    seconds = time.perf_counter() - started
    alone = []
    for query in queries_QD[:SINGLE]:
        started = time.perf_counter()
        index.search(query[None], K)
        alone.append(time.perf_counter() - started)
    started = time.perf_counter()
    _, deep_QK = index.search(queries_QD, DEEP)
    deep_seconds = time.perf_counter() - started
    return {
        "recall@10": recall(ids_QK),
        "queries_per_second": len(queries_QD) / seconds,
        "latency_ms": float(np.median(alone)) * 1e3,
        "recall_of_100": recall(deep_QK),
        "queries_per_second_of_100": len(queries_QD) / deep_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["build", "ask"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--index", required=True, help="name of the index in FOLDER")
    parser.add_argument("--memory", type=int, default=0, help="bytes")
    parser.add_argument("--param", default="", help="as autofaiss reported it")
    options = parser.parse_args()
    faiss.omp_set_num_threads(THREADS)
    if options.what == "build":
        done = build(options.folder, options.index, options.memory)
    else:
        done = ask(options.folder, options.index, options.param)
    print(json.dumps(done))


if __name__ == "__main__":
    main()

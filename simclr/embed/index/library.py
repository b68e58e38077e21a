"""FAISS itself: imported when it is first needed, on the cores of this process. Builds and asks nothing."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.errors import MissingExtra


def faiss_library() -> Any:
    """The module `faiss`. Raises MissingExtra."""
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss", "cpu") from None
    faiss.omp_set_num_threads(_cores())  # of the calling thread; the default is the host's cores
    return faiss


def one_thread() -> None:
    """Keep FAISS to the calling thread: there are others beside it that it shares the cores with."""
    faiss_library().omp_set_num_threads(1)


_cores = lru_cache(available_cpus)  # asking takes as long as a small search


def gpus() -> int:
    """GPUs that this build of FAISS can use; 0 with faiss-cpu."""
    faiss = faiss_library()
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


def to_float32(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    """(N, D) the same numbers; four times as fast as numpy for the few dozen rows of one query."""
    if not len(stored):
        return stored.astype(np.float32)
    codes = np.ascontiguousarray(stored).view(np.uint8)
    vectors: NDArray[np.float32] = _half_precision(stored.shape[1]).sa_decode(codes)
    return vectors


def unit_vectors(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    """(N, D) as a store holds them -> float32 of unit length, which rounding to float16 has changed a little."""
    vectors = to_float32(stored)
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    vectors /= np.maximum(lengths, 1e-12)[:, None]
    return vectors


@lru_cache(maxsize=8)
def _half_precision(width: int) -> Any:
    faiss = faiss_library()
    return faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16)

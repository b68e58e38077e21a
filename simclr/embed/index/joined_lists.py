"""The inverted lists of several FAISS indexes -> one index file, list by list, none of them in memory.

An index file of FAISS ends with its inverted lists: sizes of all, then the codes and the ids of one list after another. So
the lists of several indexes are joined by copying bytes, in the order in which they lie in each file. (`merge_ondisk` of
faiss.contrib writes a second file beside the index, into which each list is copied where it belongs; see docs/log.md.)
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.library import faiss_library

_BUFFER = 1 << 20


def joinable(index: Any) -> bool:
    """Whether its entries lie in inverted lists that can be copied: those of fast-scan lie in blocks of 32, several to a byte."""
    ivf = Anatomy.of(index).ivf
    return ivf is not None and isinstance(_lists(index), faiss_library().ArrayInvertedLists)


def write_joined(path: Path, trained: Any, parts: Sequence[Any]) -> None:
    """Write an index with the entries of all parts, which were filled from the same `trained` one, still empty and to be used up.

    The file is what FAISS writes of an index to which the entries were added in this order. Raises OSError.
    """
    lists = [_lists(part) for part in parts]
    count = int(_lists(trained).nlist)
    sizes = np.array([[each.list_size(number) for each in lists] for number in range(count)], np.uint64)
    with open(path, "wb", buffering=_BUFFER) as file:
        file.write(_head(trained, int(sizes.sum())))
        file.write(_sizes(sizes.sum(1), int(_lists(trained).code_size)))
        for number in range(count):
            for codes in (True, False):
                for each in lists:
                    _copy(each, number, file, codes=codes)


def _ivf(index: Any) -> Any:
    ivf = Anatomy.of(index).ivf
    assert ivf is not None, "only indexes with inverted lists are joined"
    return ivf


def _lists(index: Any) -> Any:
    return faiss_library().downcast_InvertedLists(_ivf(index).invlists)


def _head(trained: Any, entries: int) -> bytes:
    """All of its file that comes before the lists, saying that there are so many entries."""
    faiss = faiss_library()
    trained.ntotal = _ivf(trained).ntotal = entries
    whole, lists = faiss.VectorIOWriter(), faiss.VectorIOWriter()
    faiss.write_index(trained, whole)
    faiss.write_InvertedLists(_lists(trained), lists)
    found, tail = (faiss.vector_to_array(each.data).tobytes() for each in (whole, lists))
    assert found.endswith(tail), "this FAISS does not write its inverted lists last"
    return bytes(found[: -len(tail)])


def _sizes(sizes: NDArray[np.uint64], code_size: int) -> bytes:
    """What stands before the lists, as FAISS's index_write.cpp has it: all sizes, or those of the few lists that are not empty."""
    head = struct.pack("<4sQQ", b"ilar", len(sizes), code_size)
    filled = np.flatnonzero(sizes)
    if len(filled) > len(sizes) // 2:
        kind, numbers = b"full", sizes
    else:
        kind, numbers = b"sprs", np.stack([filled.astype(np.uint64), sizes[filled]], 1).ravel()
    return head + kind + struct.pack("<Q", len(numbers)) + numbers.tobytes()


def _copy(lists: Any, number: int, file: BinaryIO, *, codes: bool) -> None:
    faiss = faiss_library()
    if size := lists.list_size(number):
        if codes:
            file.write(faiss.rev_swig_ptr(lists.get_codes(number), size * lists.code_size).data)
        else:
            file.write(faiss.rev_swig_ptr(lists.get_ids(number), size).data)

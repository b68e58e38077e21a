"""Which index types `auto` considers for so many vectors of such a width, and what memory each takes. Pure numbers; no faiss.

Names are FAISS factory strings; see also https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index.
"""

import math
from dataclasses import dataclass

EXACT = "IDMap2,Flat"
"""Inner products with every vector, in float32."""
LOOKUP_BYTES = 12
"""A vector, for finding it and its row in the store (`lookup.py`)."""

_AND_MORE = 1.02
"""For what is not counted: headers, levels of a graph, lists of uneven length."""
_LEAST_FOR_LISTS = 5_000
"""Vectors from which on inverted lists save anything."""
_MOST_FOR_HNSW = 200_000
"""Vectors up to which a graph is offered: building one took 10 s for 100,000 x 512 where inverted lists took 5 s (2 cores), and grows
faster than they."""


@dataclass(frozen=True)
class Candidate:
    factory: str
    lists: int
    """Inverted lists; 0 where there are none."""
    memory: int
    """Bytes while it is searched, the lookup of ids among them."""


def candidates(size: int, width: int) -> list[Candidate]:
    """Those worth a trial for `size` vectors of `width` numbers."""
    flat = [(EXACT, 4 * width), ("IDMap2,SQfp16", 2 * width), ("IDMap2,SQ8", width)]
    found = [_candidate(factory, 0, code, size, width) for factory, code in flat]
    if size >= _LEAST_FOR_LISTS:
        lists = list_count(size, width)
        bits = math.ceil(width / 8)
        codes = [("SQfp16", 2 * width), ("SQ8", width)]
        if width % 8 == 0:
            # sizes as FAISS 1.15 lays them out: each vector also has a few factors
            codes += [("RaBitQfs4", 4 * bits + 20), ("RaBitQfs2", 2 * bits + 20), ("RaBitQfs", bits + 8)]
            codes += [(f"PQ{width // 4}x4fs", bits)]
        found += [_candidate(f"IVF{lists},{code}", lists, size_, size, width) for code, size_ in codes]
    if _LEAST_FOR_LISTS <= size <= _MOST_FOR_HNSW:
        found.append(
            _candidate("IDMap,HNSW32,SQ8", 0, width + 280, size, width)
        )  # 64 links of 4 bytes and levels
    return found


def joinable_candidates(size: int, width: int) -> list[Candidate]:
    """Those whose inverted lists can be filled apart and joined (`joined_lists.py`); none for few vectors."""
    if size < _LEAST_FOR_LISTS:
        return []
    lists, bits = list_count(size, width), math.ceil(width / 8)
    codes = [("SQfp16", 2 * width), ("SQ8", width)]
    codes += [("RaBitQ4", 4 * bits + 20), ("RaBitQ2", 2 * bits + 20), ("RaBitQ", bits + 8)]
    return [_candidate(f"IVF{lists},{code}", lists, size_, size, width) for code, size_ in codes]


def list_count(size: int, width: int) -> int:
    """Inverted lists for so many vectors: 4 sqrt(size), as FAISS's guidelines say, fewer where vectors are long.

    Clustering costs lists^2 x width; beyond 512 numbers the lists become fewer so that it stays the same.
    """
    wanted = 4 * math.sqrt(size) * min(1.0, math.sqrt(512 / width))
    return max(16, 1 << round(math.log2(wanted)))


def _candidate(factory: str, lists: int, code: int, size: int, width: int) -> Candidate:
    entry = code + 8 + LOOKUP_BYTES
    padding = 16 * code * lists if "fs" in factory else 0  # lists grow by blocks of 32
    return Candidate(factory, lists, round(_AND_MORE * (entry * size + 4 * width * lists + padding)))

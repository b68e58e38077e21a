"""What a FAISS index is made of, and what may be done with it: give, filter, remove. Reads and changes live indexes; no files.

Four things that FAISS 1.15 gets wrong without a word, measured here or in its issues, decide what this file allows:

- `IDMap2` over IVF returns other ids after a removal (faiss#4656). IVF indexes take ids themselves here.
- IVF fast-scan indexes store wrong codes for what is added after a removal. Entries of fast-scan indexes are buried.
- HNSW has no removal; its entries are buried.
- Product quantisers and fast-scan without IVF refuse filters; through a transform (OPQ, PCA, RR) an IDMap ignores them. Filters
  over such indexes are answered by exact search.

An entry is buried by taking away its id: -1 stands in its place, which every reader of FAISS takes for "none".
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.embed.index.library import faiss_library
from simclr.errors import ConfigError

NOBODY = -1
"""Id of a buried entry."""


@dataclass(frozen=True)
class Anatomy:
    """The parts of one index. `of` finds them."""

    index: Any
    """What is searched and added to."""
    ids: Any | None
    """Its IndexIDMap, if the ids lie there."""
    ivf: Any | None
    """Its IndexIVF, if the ids lie in inverted lists."""
    kinds: frozenset[str]
    """Names of the FAISS classes of all its parts."""

    @classmethod
    def of(cls, index: Any) -> "Anatomy":
        faiss = faiss_library()
        ids, kinds, part = None, set[str](), faiss.downcast_index(index)
        while True:
            names = {base.__name__ for base in type(part).__mro__}
            kinds |= names
            if "IndexIDMap" in names:
                ids = part
            if not names & {"IndexIDMap", "IndexPreTransform"}:
                return cls(index, ids, part if "IndexIVF" in names else None, frozenset(kinds))
            part = faiss.downcast_index(part.index)

    @property
    def hnsw(self) -> bool:
        return "IndexHNSW" in self.kinds

    @property
    def transformed(self) -> bool:
        """Whether vectors are turned or shortened before they are compared."""
        return "IndexPreTransform" in self.kinds

    @property
    def fast_scan(self) -> bool:
        return any("FastScan" in kind for kind in self.kinds)

    @property
    def filters(self) -> bool:
        """Whether a search can be limited to some ids."""
        if self.ivf is not None:
            return True
        known = {"IndexFlat", "IndexScalarQuantizer", "IndexRaBitQ", "IndexHNSW"}
        return bool(self.kinds & known) and not self.transformed

    @property
    def removes(self) -> bool:
        """Whether entries can be taken out; else they are buried."""
        return bool(self.kinds & {"IndexFlatCodes", "IndexIVF"}) and not self.fast_scan

    @property
    def effort(self) -> str:
        """Name of the parameter that trades time for recall; empty where there is none."""
        return "nprobe" if self.ivf is not None else "efSearch" if self.hnsw else ""

    @property
    def most_effort(self) -> int:
        """From where on more of it changes nothing."""
        return int(self.ivf.nlist) if self.ivf is not None else max(1, int(self.index.ntotal))

    def stored_ids(self) -> NDArray[np.int64]:
        """Of all entries, buried ones as NOBODY, in no order."""
        faiss = faiss_library()
        if self.ids is not None:
            found: NDArray[np.int64] = faiss.vector_to_array(self.ids.id_map)
            return found
        lists = [self._ids_of_list(number) for number in range(self._ivf.nlist)]
        return np.concatenate([np.empty(0, np.int64), *lists])

    def remove(self, gone: NDArray[np.int64]) -> int:
        """Take entries with these ids out, or bury them; returns how many were buried."""
        faiss = faiss_library()
        if not len(gone):
            return 0
        if self.removes:
            removed = self.index.remove_ids(faiss.IDSelectorBatch(np.ascontiguousarray(gone, np.int64)))
            assert removed == len(gone), f"{removed} of {len(gone)} entries were there"
            return 0
        buried = 0
        for ids in self._id_arrays():
            here = np.isin(ids, gone)
            ids[here] = NOBODY
            buried += int(here.sum())
        assert buried == len(gone), f"{buried} of {len(gone)} entries were there"
        return buried

    def _id_arrays(self) -> list[NDArray[np.int64]]:
        """Views of the memory in which the ids lie."""
        faiss = faiss_library()
        if self.ids is not None:
            view: NDArray[np.int64] = faiss.rev_swig_ptr(self.ids.id_map.data(), self.ids.id_map.size())
            return [view]
        return [self._ids_of_list(number) for number in range(self._ivf.nlist)]

    def _ids_of_list(self, number: int) -> NDArray[np.int64]:
        lists = self._ivf.invlists
        size = lists.list_size(number)
        if not size:
            return np.empty(0, np.int64)
        view: NDArray[np.int64] = faiss_library().rev_swig_ptr(lists.get_ids(number), size)
        return view

    @property
    def _ivf(self) -> Any:
        assert self.ivf is not None, "every index here has its ids in an IDMap or in inverted lists"
        return self.ivf


def empty_index(width: int, factory: str) -> Any:
    """An untrained index over inner products that takes ids, from a FAISS factory string; an IDMap is added where it is missing.

    Raises ConfigError if FAISS does not know the string, or the ids would not survive in it.
    """
    faiss = faiss_library()
    words = factory.split(",")
    if any(word.startswith(("Refine", "RFlat")) for word in words):
        raise ConfigError(
            f"index type {factory}: results are ranked again by the store's own vectors in any case. Leave out the refinement."
        )
    inverted = any(word.startswith(("IVF", "IMI")) for word in words)
    if inverted and words[0].startswith("IDMap"):
        raise ConfigError(
            f"index type {factory}: FAISS returns wrong ids from an IDMap over IVF once something is removed. Leave out the IDMap."
        )
    try:
        if not inverted and not words[0].startswith("IDMap"):
            # a reverse map is of no use where entries are buried
            buried = any("HNSW" in word or "fs" in word for word in words)
            factory = f"{'IDMap' if buried else 'IDMap2'},{factory}"
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as exc:
        raise ConfigError(
            f"index type {factory}: FAISS cannot make it for vectors of {width} numbers ({said(exc)}). "
            "Use auto, or a factory string such as IVF1024,SQ8."
        ) from exc
    anatomy = Anatomy.of(index)
    if anatomy.ids is None and anatomy.ivf is None:
        raise ConfigError(f"index type {factory}: keeps no ids. Use auto, or one such as IVF1024,SQ8.")
    return index


def said(exc: RuntimeError) -> str:
    """The end of FAISS's message: its beginning is a C++ signature."""
    return str(exc).strip().splitlines()[-1].rsplit("Error: ", 1)[-1].strip()[:200]

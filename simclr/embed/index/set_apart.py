"""Which vectors of a store an index is trained by, and which are left out of it meanwhile to judge it by. Builds nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from simclr.embed.exact import Exact
from simclr.embed.index.menu import list_count
from simclr.embed.index.training import FOR_CODES, PER_LIST, sample
from simclr.embed.index.tuning import TRUE_NEIGHBOURS, Truth
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.free_memory import free_memory

HELD_OUT = 1000
"""Vectors that are left out to measure the index by; a tenth of them, where there are few."""
_FEWEST = 20
"""Vectors left out that tell anything; with fewer the index is exact, and measured by its own vectors."""

LEFT_OUT = "left out of the index meanwhile"
"""Where queries are while an index is measured by them."""

TUNING, MEASURING = slice(0, None, 2), slice(1, None, 2)
"""Queries of the two halves. Rows that lie side by side, such as those of one folder, are in both."""


@dataclass(frozen=True)
class SetApart:
    """Unit vectors (N, width) of a store with their ids (N,), the same ones for the same store. `of` draws them."""

    training_ids: NDArray[np.int64]
    training: NDArray[np.float32]
    held_ids: NDArray[np.int64]
    """Left out of the index at first; none where there are few vectors."""
    queries: NDArray[np.float32]
    """The vectors that are left out; where there are none, those that it is trained by."""

    @classmethod
    def of(cls, store: Store, lookup: Lookup, index_type: str) -> Self:
        held, trained = _rows(len(store), store.info.width, index_type)
        training = sample(store, trained)
        queries = sample(store, held) if len(held) else training
        return cls(lookup.ids_of_rows(trained), training, lookup.ids_of_rows(held), queries)

    @property
    def few(self) -> bool:
        """Whether nothing is left out."""
        return not len(self.held_ids)

    @property
    def how(self) -> str:
        """Where the queries are while an index is measured by them."""
        return "which are in the index themselves" if self.few else LEFT_OUT

    def truth(self, store: Store) -> Truth:
        """The queries with their exact neighbours among all vectors that are not left out. Checks every shard."""
        exact = Exact(self.queries, k=min(TRUE_NEIGHBOURS, len(store)))
        for ids, vectors in self.others(store, verify=True):
            exact.show(ids, vectors)
        return Truth(self.queries, exact.neighbours)

    def others(
        self, store: Store, *, verify: bool
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Ids and unit vectors of all that are not left out, a shard at a time. Raises as `Store.blocks`."""
        for ids, vectors in store.blocks(verify=verify):
            added = ~np.isin(ids, self.held_ids)
            if added.all():
                yield ids, vectors
            elif added.any():  # FAISS refuses to add nothing to some types
                yield ids[added], vectors[added]


def _rows(size: int, width: int, index_type: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers that are left out, and those to train with, both rising."""
    order = np.random.Generator(np.random.PCG64(size)).permutation(size)
    held = min(HELD_OUT, size // 10)
    held = 0 if held < _FEWEST else held
    named = re.search(r"IVF(\d+)", index_type)
    lists = list_count(size, width) if index_type == "auto" else int(named.group(1)) if named else 0
    room = free_memory() // 4 // (4 * width)
    wanted = min(max(FOR_CODES, PER_LIST * lists), max(FOR_CODES, room))
    return np.sort(order[:held]), np.sort(order[held : held + wanted])

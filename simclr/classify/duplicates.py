"""Pairs of images that are alike -> groups of copies, each with the image to keep. Pure: reads no store, no index, no file.

A chain a ~ b ~ c does not make c a copy of a: every member of a group is a copy of its keeper, by its content or by what is compared: its vector,
or its small picture.

Shape letters: N = images, M = members of a component, K = keepers among them, C = copies of one keeper, P = pairs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6
"""By which a cosine may stay below the threshold: float32 sums of the same numbers in another order differ by less."""
_BLOCK = 1024
"""Members that are compared at once."""
_GATHERED = 4096
"""Members of small components whose vectors are fetched together."""

Held = Callable[[NDArray[np.int64]], NDArray[Any]]
"""Places (M,) -> what is compared (M, ...), such as unit vectors."""
Alike = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]
"""(M, ...) and (K, ...) of these -> how alike each is to each (M, K), at most 1."""


def cosines(one_MD: NDArray[np.float32], other_KD: NDArray[np.float32]) -> NDArray[np.float32]:
    """`Alike` of unit vectors."""
    found: NDArray[np.float32] = one_MD @ other_KD.T
    return found


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of the images of a store without reading one: (N,) each, by rising id. A place counts into these."""

    ids: NDArray[np.int64]
    widths: NDArray[np.int64]
    heights: NDArray[np.int64]
    """Of the upright images, in pixels."""
    bytes: NDArray[np.int64]
    contents: NDArray[np.int64]
    """A number for each content: equal where the bytes are."""

    @property
    def pixels(self) -> NDArray[np.int64]:
        return self.widths * self.heights

    @property
    def firsts(self) -> NDArray[np.int64]:
        """(N,) the first place that has the same content, often its own."""
        _, first, which_N = np.unique(self.contents, return_index=True, return_inverse=True)
        found: NDArray[np.int64] = first[which_N]
        return found


@dataclass(frozen=True, eq=False)
class Group:
    """An image and its copies, exact ones first, then by similarity, then by id; all of them places."""

    keeper: int
    copies_C: NDArray[np.int64]
    similarities_C: NDArray[np.float64]
    """How alike to the keeper, to six decimals; 1 of exact ones."""
    exact_C: NDArray[np.bool_]
    """Whether the content is the keeper's."""


class Components:
    """Which places hang together, pair by pair. Memory is that of N numbers, however many pairs there are."""

    def __init__(self, count: int) -> None:
        self._above = np.arange(count)
        """A lower place of the same component; of the lowest, itself."""

    def join(self, one_P: NDArray[np.int64], other_P: NDArray[np.int64]) -> None:
        while len(one_P):
            one_P, other_P = self._above[one_P], self._above[other_P]
            apart = one_P != other_P
            one_P, other_P = one_P[apart], other_P[apart]
            np.minimum.at(self._above, np.maximum(one_P, other_P), np.minimum(one_P, other_P))
            self._flatten()

    def labels(self) -> NDArray[np.int64]:
        """(N,) the lowest place of each one's component."""
        return self._above.copy()

    def _flatten(self) -> None:
        while True:
            higher = self._above[self._above]
            if np.array_equal(higher, self._above):
                return
            self._above = higher


def grouped(
    facts: Facts, components: Components, threshold: float, held: Held, alike: Alike = cosines
) -> list[Group]:
    """The groups, by the id of their keepers.

    Within a component the best image, of most pixels, then most bytes, then the lowest id, is a keeper: what has its content, or
    is at least as alike as the threshold, is its copy. The best of the rest is the next keeper, and so on. One that is nobody's copy
    and has none makes no group.
    """
    found: list[Group] = []
    for places_M, held_of in _by_component(facts, components, held):
        keepers_M, similarities_M = _keepers(facts.contents[places_M], held_of, alike, threshold)
        found += _groups(facts, places_M, keepers_M, similarities_M)
    return sorted(found, key=lambda group: group.keeper)


def _by_component(
    facts: Facts, components: Components, held: Held
) -> Iterator[tuple[NDArray[np.int64], Callable[[slice], NDArray[Any]]]]:
    """Of each component of two and more its places, the best first, and how to get what is compared of some."""
    labels_N = components.labels()
    places = np.flatnonzero(np.bincount(labels_N, minlength=len(labels_N))[labels_N] > 1)
    order = np.lexsort(
        (places, -facts.bytes[places], -facts.pixels[places], labels_N[places])
    )  # the last comes first
    places = places[order]
    ends = (
        np.append(np.flatnonzero(np.diff(labels_N[places])) + 1, len(places)).tolist() if len(places) else []
    )
    start, gathered_from, gathered_to = 0, 0, 0
    gathered: NDArray[Any] = np.empty(0)
    for number, end in enumerate(ends):
        members = places[start:end]
        if len(members) > _BLOCK:
            yield members, partial(_some, held, members)
        else:
            if end > gathered_to:
                gathered_from = start
                gathered_to = max(each for each in ends[number:] if each - start <= _GATHERED)
                gathered = held(places[gathered_from:gathered_to])
            yield members, gathered[start - gathered_from : end - gathered_from].__getitem__
        start = end


def _some(held: Held, members: NDArray[np.int64], part: slice) -> NDArray[Any]:
    return held(members[part])


def _keepers(
    contents_M: NDArray[np.int64], held: Callable[[slice], NDArray[Any]], alike: Alike, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Of members, the best first: which of them is the keeper of each, and how alike it is to that.

    To take the best, all its copies, and so on, is to ask of each member in turn for the first keeper before it that takes it.
    """
    count = len(contents_M)
    keepers_M, similarities_M = np.full(count, -1), np.ones(count, np.float32)
    kept: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
    for start in range(0, count, _BLOCK):
        rows = np.arange(start, min(count, start + _BLOCK))
        block = held(slice(start, start + _BLOCK))
        for keeper_rows, keepers in kept:
            open_ = np.flatnonzero(keepers_M[rows] < 0)
            if not len(open_):
                break
            alike_MK = alike(block[open_], keepers)
            taking = _taking(alike_MK, contents_M[rows[open_]], contents_M[keeper_rows], threshold)
            first = taking.argmax(1)
            taken = np.flatnonzero(taking[np.arange(len(open_)), first])
            keepers_M[rows[open_[taken]]] = keeper_rows[first[taken]]
            similarities_M[rows[open_[taken]]] = alike_MK[taken, first[taken]]
        open_ = np.flatnonzero(keepers_M[rows] < 0)
        if not len(open_):
            continue
        rest = rows[open_]
        alike_MM = alike(block[open_], block[open_])
        taking = _taking(alike_MM, contents_M[rest], contents_M[rest], threshold)
        for place, row in enumerate(rest):
            if keepers_M[row] < 0:
                keepers_M[row] = row
                mine = taking[place] & (keepers_M[rest] < 0)
                keepers_M[rest[mine]] = row
                similarities_M[rest[mine]] = alike_MM[place, mine]
        new = keepers_M[rest] == rest
        kept.append((rest[new], block[open_[new]]))
    return keepers_M, similarities_M


def _taking(
    alike_MK: NDArray[np.float32],
    contents_M: NDArray[np.int64],
    contents_K: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (alike_MK >= threshold - ROUNDING) | (contents_M[:, None] == contents_K)
    return found


def _groups(
    facts: Facts,
    places_M: NDArray[np.int64],
    keepers_M: NDArray[np.int64],
    similarities_M: NDArray[np.float32],
) -> Iterator[Group]:
    copies = np.flatnonzero(keepers_M != np.arange(len(keepers_M)))
    keepers, places = places_M[keepers_M[copies]], places_M[copies]
    exact = facts.contents[keepers] == facts.contents[places]
    similarities = np.clip(similarities_M[copies].astype(np.float64), -1, 1).round(6)
    similarities[exact] = 1
    order = np.lexsort((places, -similarities, ~exact, keepers))
    ends = np.flatnonzero(np.diff(keepers[order])) + 1
    for part in np.split(order, ends) if len(order) else []:
        yield Group(int(keepers[part[0]]), places[part], similarities[part], exact[part])

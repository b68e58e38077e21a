"""Searches that wait -> their hits, those alike together: one lookup, one call of FAISS. Runs in a thread; knows no HTTP.

Shape letters: Q = searches of a group, D = width, P = examples of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from simclr.embed import Hit
from simclr.embed.index.library import unit_vectors
from simclr.embed.search import blended
from simclr.errors import SimclrError
from simclr.serve.collection import Served
from simclr.serve.limits import Refused


@dataclass(frozen=True, eq=False, kw_only=True)
class Search:
    """One search: images of the collection by their ids, and vectors of others, to be like and unlike."""

    served: Served
    """The state of the collection that it began with."""
    k: int
    like: Sequence[int] = ()
    unlike: Sequence[int] = ()
    like_vectors: Sequence[NDArray[np.float32]] = field(default=())
    unlike_vectors: Sequence[NDArray[np.float32]] = field(default=())
    """Of length 1."""
    where: str | None = None
    exclude_self: bool = False

    @property
    def ids(self) -> list[int]:
        return [*self.like, *self.unlike]


@dataclass(frozen=True, eq=False)
class Answer:
    hits: list[Hit]
    query: NDArray[np.float32]
    """(D,) what was looked for; not of length 1 where it is several as one."""


def answered(searches: Sequence[Search]) -> list[Answer | Exception]:
    """For each its answer, or what is wrong with it: an unknown id, a condition that SQLite does not take."""
    answers: list[Answer | Exception] = [Refused(500, "not searched")] * len(searches)
    places = sorted(range(len(searches)), key=lambda place: _alike(searches[place]))
    for _, group in groupby(places, key=lambda place: _alike(searches[place])):
        together = list(group)
        for place, answer in zip(together, _group([searches[place] for place in together]), strict=True):
            answers[place] = answer
    return answers


def _alike(search: Search) -> tuple[int, str, int]:
    """What must be equal for searches to be made in one: state, condition, and about as many hits."""
    return id(search.served), search.where or "", (search.k + _excluded(search)).bit_length()


def _excluded(search: Search) -> int:
    return len(search.ids) if search.exclude_self else 0


def _group(searches: Sequence[Search]) -> list[Answer | Exception]:
    index, where = searches[0].served.index, searches[0].where
    known = _known([search.ids for search in searches], searches[0].served)
    good = [search for search, problem in zip(searches, known, strict=True) if problem is None]
    found: list[Answer | Exception] = []
    if good:
        queries_QD = _queries(good)
        k = max(search.k + _excluded(search) for search in good)
        try:
            hits = index.search(queries_QD, k, where=where)
            found = [Answer(*pair) for pair in zip(map(_cut, good, hits), queries_QD, strict=True)]
        except SimclrError as exc:
            found = [exc] * len(good)
    rest = iter(found)
    return [problem or next(rest) for problem in known]


def _known(ids: Sequence[Sequence[int]], served: Served) -> list[Exception | None]:
    every = np.array([id for some in ids for id in some], np.int64)
    held = iter(served.index.lookup.holds(every).tolist())
    problems: list[Exception | None] = []
    for some in ids:
        missing = [id for id in some if not next(held)]
        problems.append(unknown(missing[0]) if missing else None)
    return problems


def unknown(id: int) -> Refused:
    """The answer where the collection has no such image."""
    return Refused(404, f"the collection has no image with the id {id}. Search results say the ids.")


def _queries(searches: Sequence[Search]) -> NDArray[np.float32]:
    """(Q, D)"""
    lookup = searches[0].served.index.lookup
    every = np.array([id for search in searches for id in search.ids], np.int64)
    vectors_PD = unit_vectors(lookup.vectors(every))
    queries, start = [], 0
    for search in searches:
        middle, end = start + len(search.like), start + len(search.ids)
        like = [*vectors_PD[start:middle], *search.like_vectors]
        unlike = [*vectors_PD[middle:end], *search.unlike_vectors]
        queries.append(blended(np.array(like), np.array(unlike)))
        start = end
    return np.array(queries, np.float32)


def _cut(search: Search, hits: list[Hit]) -> list[Hit]:
    own = set(search.ids) if search.exclude_self else set()
    return [hit for hit in hits if hit.id not in own][: search.k]

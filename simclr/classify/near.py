"""A store -> pairs of its images whose vectors are near, found through an index a block at a time. No groups, no images.

Shape letters: N = images of a store, Q = queries of a block, K = neighbours, P = pairs, D = width.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simclr.artifacts import IndexWish
from simclr.classify.duplicates import ROUNDING, Facts
from simclr.embed import build_index
from simclr.embed.index.files import load_index
from simclr.embed.index.menu import EXACT, list_count
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
from simclr.embed.shards import numbers
from simclr.embed.store import Store
from simclr.errors import ArtifactError, EncoderMismatch, SimclrError

FIRST, MOST = 8, 512
"""Neighbours asked for at first, and at most, each image itself among them. Twice as many are asked for wherever the last one is near, too.
Beyond, the nearest are known, of equal ones those with the lowest ids: so that any number of copies of one image hang together."""
RECALL = 0.95
"""recall@10 of an index that is built for this."""
_COMPARED = 20_000
"""Vectors up to which all are compared with all: clustering them first takes longer than that."""
_AT_ONCE = 1 << 17
"""Neighbours asked for together."""

Note = Callable[[str], None]
Show = Callable[[str], AbstractContextManager[Callable[[int, int, str], None]]]
"""What is being done -> a place to say how far it is."""


@dataclass(frozen=True, eq=False)
class Near:
    """What was found for the images of one block."""

    one_P: NDArray[np.int64]
    other_P: NDArray[np.int64]
    """Ids of the pairs, some of them more than once."""
    similarities_P: NDArray[np.float32]
    nearest_Q: NDArray[np.float32]
    """Of each image that was asked for, once: the cosine to the nearest of another content; -inf where only copies are that near."""


def facts_of(*stores: Store) -> list[Facts]:
    """Of one store or several; equal contents have the same number in all of them."""
    tables = [store.table(["id", "width", "height", "size", "content_hash"]) for store in stores]
    coded = pa.chunked_array(
        [chunk for table in tables for chunk in table["content_hash"].chunks], pa.string()
    )
    codes = numbers(pa.table({"code": coded.combine_chunks().dictionary_encode().indices}), "code")
    found, start = [], 0
    for table in tables:
        ids = numbers(table, "id")
        order = np.argsort(ids)
        widths, heights, sizes = (
            numbers(table, name).astype(np.int64)[order] for name in ("width", "height", "size")
        )
        contents = codes[start : start + len(ids)].astype(np.int64)
        found.append(Facts(ids[order], widths, heights, sizes, contents[order]))
        start += len(ids)
    return found


def finder_in_step(store: Store, lookup: Lookup, index: Path | None) -> Finder | str:
    """By the index that is named, or that lies beside the store; or why there is none that is in step with it.

    Raises ArtifactError, EncoderMismatch if the index that is named is missing, damaged, or another store's.
    """
    path = index or store.folder.with_suffix(".faiss")
    if index is None and not path.is_file():
        return f"{path}: no such index"
    try:
        return _opened(store, lookup, path)
    except _Behind:
        return f"{path} is behind its store"
    except SimclrError as exc:
        if index is not None:
            raise
        return str(exc)


@contextmanager
def finder_of(
    store: Store, lookup: Lookup, found: Finder | str, *, note: Note, show: Show
) -> Iterator[Finder]:
    """What `finder_in_step` has found; or by an index that is built now, and gone afterwards."""
    if isinstance(found, Finder):
        yield found
        return
    note(
        f"{found.rstrip('.')}; one is built for this and thrown away. To keep one: simclr index build {store.folder}"
    )
    with tempfile.TemporaryDirectory(prefix="simclr-") as folder:
        path = Path(folder) / "once.faiss"
        with show("indexing") as update:
            wish = IndexWish(index_type=type_for(len(store), store.info.width), recall=RECALL)
            info = build_index(store, path, wish, progress=update)
        yield Finder.of(load_index(path, mapped=True)[0], info, lookup)


def type_for(size: int, width: int) -> str:
    """FAISS factory string of an index that is asked for each of its own vectors once; finding the best type takes longer than that."""
    return EXACT if size <= _COMPARED else f"IVF{list_count(size, width)},SQ8"


class _Behind(Exception):
    """The store has changed since."""


def _opened(store: Store, lookup: Lookup, path: Path) -> Finder:
    index, info = load_index(path, mapped=True)
    if info.identity != store.info.identity:
        raise EncoderMismatch(
            f"{path}: its vectors were made by encoder {info.identity[:8]}, but those of {store.folder} by {store.info.identity[:8]}. "
            "Give the index of this store, or leave out --index."
        )
    if info.store_uid != store.info.uid:
        raise ArtifactError(
            f"{path}: was not built from {store.folder}, whose ids stand for other images. Give the index of this store, or leave out --index."
        )
    if info.generation != store.info.generation:
        raise _Behind
    return Finder.of(index, info, lookup)


def near_pairs(
    store: Store,
    facts: Facts,
    finder: Finder,
    lookup: Lookup,
    threshold: float,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> Iterator[Near]:
    """All pairs with a cosine of at least the threshold, as far as the index finds them; equal contents need no vector and may be missing.

    An image with the content and the vector of an earlier one is not asked for: it has the same neighbours.
    """
    firsts_N = facts.firsts
    done = 0
    progress(0, len(facts.ids), "")
    for ids, vectors in store.blocks():
        places = np.searchsorted(facts.ids, ids)
        asked = firsts_N[places] == places
        later = np.flatnonzero(~asked)
        of_first = lookup.vectors(facts.ids[firsts_N[places[later]]])
        asked[later] = (lookup.vectors(ids[later]) != of_first).any(1)
        for part in np.array_split(np.flatnonzero(asked), -(-int(asked.sum()) // 1024) or 1):
            yield from _near(facts, finder, ids[part], vectors[part], threshold)
        done += len(ids)
        progress(done, len(facts.ids), "")


def _near(
    facts: Facts, finder: Finder, ids_Q: NDArray[np.int64], vectors_QD: NDArray[np.float32], threshold: float
) -> Iterator[Near]:
    k, first = FIRST, True
    while len(ids_Q):
        step = max(1, _AT_ONCE // k)
        more = np.zeros(len(ids_Q), np.bool_)
        for start in range(0, len(ids_Q), step):
            part = slice(start, start + step)
            similarities_QK, found_QK = finder.find(vectors_QD[part], k)
            others_QK = (found_QK >= 0) & (found_QK != ids_Q[part, None])
            near_QK = others_QK & (similarities_QK >= threshold - ROUNDING)
            one_Q1 = np.broadcast_to(ids_Q[part, None], near_QK.shape)
            nearest_Q = (
                _nearest(facts, ids_Q[part], similarities_QK, found_QK) if first else similarities_QK[:0, 0]
            )
            yield Near(one_Q1[near_QK], found_QK[near_QK], similarities_QK[near_QK], nearest_Q)
            more[part] = (similarities_QK[:, -1] >= threshold - ROUNDING) & (similarities_QK.shape[1] == k)
        if k >= MOST:
            return
        ids_Q, vectors_QD = ids_Q[more], vectors_QD[more]
        k, first = 2 * k, False


def _nearest(
    facts: Facts, ids_Q: NDArray[np.int64], similarities_QK: NDArray[np.float32], found_QK: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(Q,) the best similarity to another content."""
    own_Q = facts.contents[np.searchsorted(facts.ids, ids_Q)]
    contents_QK = facts.contents[np.searchsorted(facts.ids, np.maximum(found_QK, facts.ids[0]))]
    other_QK = (found_QK >= 0) & (contents_QK != own_Q[:, None])
    best: NDArray[np.float32] = np.where(other_QK, similarities_QK, -np.inf).max(1).astype(np.float32)
    return best


def nearest_contents(
    facts: Facts, finder: Finder, vectors_QD: NDArray[np.float32], own_Q: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """(Q, k) places of the nearest images with another content than its own, each content once, by its first image; -1 where there are fewer."""
    firsts_N = facts.firsts
    found_QK = np.full((len(vectors_QD), k), -1)
    open_, depth, most = np.arange(len(vectors_QD)), k + FIRST, min(MOST, len(facts.ids))
    while len(open_):
        ids_QR = finder.find(vectors_QD[open_], min(depth, most))[1]
        places_QR = firsts_N[np.searchsorted(facts.ids, np.maximum(ids_QR, facts.ids[0]))]
        counts_QR = (
            (ids_QR >= 0) & (facts.contents[places_QR] != own_Q[open_, None]) & _first_in_row(places_QR)
        )
        rank_QR = counts_QR.cumsum(1) - 1
        row, column = np.nonzero(counts_QR & (rank_QR < k))
        found_QK[open_[row], rank_QR[row, column]] = places_QR[row, column]
        open_ = open_[(rank_QR[:, -1] < k - 1) & (depth < most)]
        depth *= 2
    return found_QK


def _first_in_row(values_QR: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the value has not been there before in its row."""
    order_QR = np.argsort(values_QR, axis=1, kind="stable")
    ranked_QR = np.take_along_axis(values_QR, order_QR, axis=1)
    found = np.ones(values_QR.shape, np.bool_)
    np.put_along_axis(found, order_QR[:, 1:], ranked_QR[:, 1:] != ranked_QR[:, :-1], axis=1)
    return found


def nearest_in(
    finder: Finder,
    other: Store,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """For blocks of the images of another store: their ids, the ids of the nearest in the finder's store, and the cosines (Q,)."""
    done = 0
    progress(0, len(other), "")
    for ids, vectors in other.blocks():
        for start in range(0, len(ids), 1024):
            part = slice(start, start + 1024)
            similarities_Q1, found_Q1 = finder.find(vectors[part], 1)
            yield ids[part], found_Q1[:, 0], similarities_Q1[:, 0]
        done += len(ids)
        progress(done, len(other), "")

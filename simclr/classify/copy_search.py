"""A store -> groups of copies in it; two stores -> images of one that the other has, too. Reads top to bottom; deletes nothing.

Shape letters: N = images of a store, Q = images of the other one, M = images whose nearest other is known.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.classify.copies import chosen_cut
from simclr.classify.duplicates import ROUNDING, Components, Facts, Group, grouped
from simclr.classify.near import Note, Show, facts_of, finder_in_step, finder_of, near_pairs, nearest_in
from simclr.classify.threshold import Cut
from simclr.embed.index.library import unit_vectors
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.errors import ConfigError, EncoderMismatch, ImageError


@dataclass(frozen=True, eq=False)
class Duplicates:
    """The copies within a store."""

    facts: Facts
    threshold: float
    cut: Cut | None
    """What the threshold was chosen by; None where it was given."""
    groups: list[Group]
    nearest_M: NDArray[np.float32]
    """Cosines of images to the nearest of another content, each content once."""

    @property
    def exact(self) -> int:
        """Copies with the very content of their keeper."""
        return sum(int(group.exact_C.sum()) for group in self.groups)

    @property
    def near(self) -> int:
        return sum(int((~group.exact_C).sum()) for group in self.groups)

    @property
    def bytes(self) -> int:
        """Of all copies, without their keepers."""
        return sum(int(self.facts.bytes[group.copies_C].sum()) for group in self.groups)


@dataclass(frozen=True, eq=False)
class Leaks:
    """Images of another store that have a copy in a store: ids and cosines (L,), by rising id."""

    threshold: float
    cut: Cut | None
    images: int
    """Of the other store."""
    others: NDArray[np.int64]
    """Ids of the other store."""
    ids: NDArray[np.int64]
    """The copy in the store: of equal content where there is one, else the nearest; the lowest id of equal ones."""
    similarities: NDArray[np.float64]
    exact: NDArray[np.bool_]
    nearest_M: NDArray[np.float32]
    """Cosines of the other's images to the nearest of another content, as far as known."""

    @property
    def share(self) -> float:
        """Of the other store, in 0..1."""
        return len(self.others) / self.images


def find_duplicates(
    store: Store, *, threshold: float | None, index: Path | None = None, note: Note, show: Show
) -> Duplicates:
    """`threshold`: a cosine in (0, 1]; None chooses one by planted copies. `index`: of the store; see `near.finder_in_step`.

    Raises ImageError (an empty store; images that cannot be read again), ConfigError (too few of them to choose by),
    ArtifactError, EncoderMismatch.
    """
    _filled(store)
    (facts,) = facts_of(store)
    lookup = Lookup(store)
    in_step = finder_in_step(store, lookup, index)
    cut = None if threshold is not None else _chosen(store, facts, lookup, show=show)
    threshold = cut.threshold if cut is not None else _checked(threshold)
    components = Components(len(facts.ids))
    components.join(np.arange(len(facts.ids)), facts.firsts)
    nearest: list[NDArray[np.float32]] = []
    with finder_of(store, lookup, in_step, note=note, show=show) as finder, show("comparing") as update:
        for near in near_pairs(store, facts, finder, lookup, threshold, progress=update):
            components.join(np.searchsorted(facts.ids, near.one_P), np.searchsorted(facts.ids, near.other_P))
            nearest.append(near.nearest_Q)
    groups = grouped(
        facts, components, threshold, lambda places: unit_vectors(lookup.vectors(facts.ids[places]))
    )
    return Duplicates(facts, threshold, cut, groups, _known(nearest))


def find_leaks(
    store: Store, other: Store, *, threshold: float | None, index: Path | None = None, note: Note, show: Show
) -> Leaks:
    """Images of `other` with a copy in `store`, such as those of a test set that were trained on. Raises as `find_duplicates`."""
    _filled(store)
    _filled(other)
    if store.folder.resolve() == other.folder.resolve():
        raise ConfigError(
            f"{other.folder}: the same store twice. To find the copies within it: simclr duplicates {store.folder}"
        )
    if store.info.identity != other.info.identity:
        raise EncoderMismatch(
            f"{other.folder}: its vectors were made by encoder {other.info.identity[:8]}, but those of {store.folder} by {store.info.identity[:8]}. "
            f"Embed its images with the other's: simclr embed FOLDER --store NEW --model {store.model}"
        )
    facts, theirs = facts_of(store, other)
    lookup = Lookup(store)
    in_step = finder_in_step(store, lookup, index)
    cut = None if threshold is not None else _chosen(store, facts, lookup, show=show)
    threshold = cut.threshold if cut is not None else _checked(threshold)
    twins_Q = _first_with(facts.contents, theirs.contents)
    others, ids, similarities = [], [], []
    with finder_of(store, lookup, in_step, note=note, show=show) as finder, show("comparing") as update:
        for block_ids, found, near in nearest_in(finder, other, progress=update):
            others.append(block_ids)
            ids.append(found)
            similarities.append(near)
    order = np.argsort(np.concatenate(others))
    id_Q, similarity_Q = np.concatenate(ids)[order], np.concatenate(similarities)[order]
    exact_Q = twins_Q >= 0
    nearest = similarity_Q[~exact_Q]
    cosine_Q = similarity_Q.astype(np.float64)
    id_Q[exact_Q] = facts.ids[twins_Q[exact_Q]]
    cosine_Q[exact_Q] = _between(store, other, id_Q[exact_Q], theirs.ids[exact_Q])
    leaking_Q = exact_Q | (cosine_Q >= threshold - ROUNDING)
    return Leaks(
        threshold,
        cut,
        len(theirs.ids),
        theirs.ids[leaking_Q],
        id_Q[leaking_Q],
        np.clip(cosine_Q[leaking_Q], -1, 1).round(6),
        exact_Q[leaking_Q],
        _known([nearest]),
    )


def threshold_of(words: str) -> float | None:
    """`auto`, which is None, or a cosine. Raises ConfigError."""
    if words.strip().lower() == "auto":
        return None
    try:
        return _checked(float(words))
    except ValueError:
        raise ConfigError(
            f"--threshold {words!r} is no number. Use auto, or a cosine such as 0.95."
        ) from None


def _checked(threshold: float | None) -> float:
    if threshold is None or not 0 < threshold <= 1:
        raise ConfigError(
            f"--threshold ({threshold:g}) must be more than 0 and at most 1. Use auto, or a cosine such as 0.95."
        )
    return threshold


def _filled(store: Store) -> None:
    if not len(store):
        raise ImageError(
            f"{store.folder}: holds no vectors, so there is nothing to compare. See {store.folder}/skipped.csv."
        )


def _chosen(store: Store, facts: Facts, lookup: Lookup, *, show: Show) -> Cut:
    with show("planting copies") as update:
        return chosen_cut(store, facts, lookup, progress=update)


def _first_with(contents_N: NDArray[np.int64], wanted_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Q,) the first place with each content, -1 where there is none."""
    values, first = np.unique(contents_N, return_index=True)
    place = np.minimum(np.searchsorted(values, wanted_Q), len(values) - 1)
    return np.where(values[place] == wanted_Q, first[place], -1)


def _between(
    store: Store, other: Store, ids_P: NDArray[np.int64], others_P: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(P,) cosines of an image of each store."""
    one, two = Lookup(store), Lookup(other)
    found = np.empty(len(ids_P), np.float32)
    for start in range(0, len(ids_P), 4096):
        part = slice(start, start + 4096)
        vectors = unit_vectors(one.vectors(ids_P[part])), unit_vectors(two.vectors(others_P[part]))
        found[part] = np.einsum("pd,pd->p", *vectors)
    return found


def _known(nearest: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    every = np.concatenate([np.empty(0, np.float32), *nearest])
    known: NDArray[np.float32] = every[np.isfinite(every)]
    return known

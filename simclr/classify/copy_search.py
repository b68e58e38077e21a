"""A store -> groups of copies in it; two stores -> images of one that the other has, too. Reads top to bottom; deletes nothing.

By a threshold that is given, images are copies whose vectors are that near. Else by their looks: vectors propose, small pictures decide.

Shape letters: N = images of a store, Q = images of the other one, M = images whose nearest other is known.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.classify.copies import chosen_cut
from simclr.classify.cut import Cut
from simclr.classify.duplicates import ROUNDING, Components, Facts, Group, grouped
from simclr.classify.looking import look_at
from simclr.classify.looks import pictures_alike
from simclr.classify.near import Note, Show, facts_of, finder_in_step, finder_of, near_pairs, nearest_in
from simclr.classify.small_pictures import SmallPictures, small_pictures
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.errors import ConfigError, EncoderMismatch, ImageError


@dataclass(frozen=True, eq=False)
class Duplicates:
    """The copies within a store."""

    facts: Facts
    threshold: float
    """A cosine, if it was given; else a likeness, see `looks.alike`."""
    cut: Cut | None
    """What the threshold was chosen by; None where it was given."""
    groups: list[Group]
    nearest_M: NDArray[np.float32]
    """How alike the nearest of another content is to each, each content once."""

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
    """Images of another store that have a copy in a store: ids and similarities (L,), by rising id; `threshold`, `cut` as of Duplicates."""

    threshold: float
    cut: Cut | None
    images: int
    """Of the other store."""
    others: NDArray[np.int64]
    """Ids of the other store."""
    ids: NDArray[np.int64]
    """The copy in the store: of equal content where there is one, else the most alike; the lowest id of equal ones."""
    similarities: NDArray[np.float64]
    """1 of exact copies."""
    exact: NDArray[np.bool_]
    nearest_M: NDArray[np.float32]
    """How alike the most alike of another content is to each of the other's images, as far as known."""

    @property
    def share(self) -> float:
        """Of the other store, in 0..1."""
        return len(self.others) / self.images


def find_duplicates(
    store: Store, *, threshold: float | None, index: Path | None = None, note: Note, show: Show
) -> Duplicates:
    """`threshold`: a cosine in (0, 1]; None compares looks. `index`: of the store; see `near.finder_in_step`.

    Raises ImageError (an empty store; images that cannot be read again), ConfigError, ArtifactError, EncoderMismatch.
    """
    _filled(store)
    (facts,) = facts_of(store)
    lookup = Lookup(store)
    in_step = finder_in_step(store, lookup, index)
    components = Components(len(facts.ids))
    components.join(np.arange(len(facts.ids)), facts.firsts)
    nearest: list[NDArray[np.float32]] = []
    if threshold is not None:
        _check(threshold)
        with finder_of(store, lookup, in_step, note=note, show=show) as finder, show("comparing") as update:
            for near in near_pairs(store, facts, finder, lookup, threshold, progress=update):
                components.join(
                    np.searchsorted(facts.ids, near.one_P), np.searchsorted(facts.ids, near.other_P)
                )
                nearest.append(near.nearest_Q)
        groups = grouped(
            facts, components, threshold, lambda places: unit_vectors(lookup.vectors(facts.ids[places]))
        )
        return Duplicates(facts, threshold, None, groups, _known(nearest))
    with (
        finder_of(store, lookup, in_step, note=note, show=show) as finder,
        _pictures(store, facts, note=note, show=show) as pictures,
    ):
        cut = _chosen(store, facts, lookup, finder, pictures, show=show)
        with show("comparing") as update:
            for looked in look_at(store, facts, pictures, finder, facts, pictures, progress=update):
                row, column = np.nonzero(looked.alike_QK >= cut.threshold)
                components.join(looked.places_Q[row], looked.found_QK[row, column])
                nearest.append(looked.alike_QK.max(1, initial=-1))
        firsts_N = facts.firsts
        groups = grouped(
            facts,
            components,
            cut.threshold,
            lambda places: pictures.pictures[firsts_N[places]],
            pictures_alike,
        )
    return Duplicates(facts, cut.threshold, cut, groups, _known(nearest))


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
    cut = None
    copies_Q = np.full(len(theirs.ids), -1)
    """Ids in the store."""
    similarity_Q = np.full(len(theirs.ids), -np.inf)
    if threshold is not None:
        _check(threshold)
        with finder_of(store, lookup, in_step, note=note, show=show) as finder, show("comparing") as update:
            for block_ids, found, near in nearest_in(finder, other, progress=update):
                places = np.searchsorted(theirs.ids, block_ids)
                copies_Q[places], similarity_Q[places] = found, near
    else:
        with (
            finder_of(store, lookup, in_step, note=note, show=show) as finder,
            _pictures(store, facts, note=note, show=show) as ours,
            _pictures(other, theirs, note=note, show=show) as pictures,
        ):
            cut = _chosen(store, facts, lookup, finder, ours, show=show)
            threshold = cut.threshold
            with show("comparing") as update:
                for looked in look_at(other, theirs, pictures, finder, facts, ours, progress=update):
                    best = looked.alike_QK.argmax(1)[:, None]
                    found = np.take_along_axis(looked.found_QK, best, axis=1)[:, 0]
                    copies_Q[looked.places_Q] = np.where(found >= 0, facts.ids[found], -1)
                    similarity_Q[looked.places_Q] = np.take_along_axis(looked.alike_QK, best, axis=1)[:, 0]
        firsts_Q = theirs.firsts
        copies_Q, similarity_Q = copies_Q[firsts_Q], similarity_Q[firsts_Q]
    twins_Q = _first_with(facts.contents, theirs.contents)
    exact_Q = twins_Q >= 0
    nearest = similarity_Q[~exact_Q].astype(np.float32)
    copies_Q[exact_Q], similarity_Q[exact_Q] = facts.ids[twins_Q[exact_Q]], 1
    leaking_Q = exact_Q | (similarity_Q >= threshold - ROUNDING)
    return Leaks(
        threshold,
        cut,
        len(theirs.ids),
        theirs.ids[leaking_Q],
        copies_Q[leaking_Q],
        np.clip(similarity_Q[leaking_Q], -1, 1).round(6),
        exact_Q[leaking_Q],
        _known([nearest]),
    )


def threshold_of(words: str) -> float | None:
    """`auto`, which is None, or a cosine. Raises ConfigError."""
    if words.strip().lower() == "auto":
        return None
    try:
        threshold = float(words)
    except ValueError:
        raise ConfigError(
            f"--threshold {words!r} is no number. Use auto, or a cosine such as 0.95."
        ) from None
    _check(threshold)
    return threshold


def _check(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ConfigError(
            f"--threshold ({threshold:g}) must be more than 0 and at most 1. Use auto, or a cosine such as 0.95."
        )


def _filled(store: Store) -> None:
    if not len(store):
        raise ImageError(
            f"{store.folder}: holds no vectors, so there is nothing to compare. See {store.folder}/skipped.csv."
        )


@contextmanager
def _pictures(store: Store, facts: Facts, *, note: Note, show: Show) -> Iterator[SmallPictures]:
    with small_pictures(store, facts, show=show) as pictures:
        if pictures.lost:
            note(
                f"{pictures.lost:,} images of {store.folder} have gone or changed since they were embedded: of these only exact copies are found"
            )
        yield pictures


def _chosen(
    store: Store, facts: Facts, lookup: Lookup, finder: Finder, pictures: SmallPictures, *, show: Show
) -> Cut:
    with show("planting copies") as update:
        return chosen_cut(store, facts, lookup, finder, pictures, progress=update)


def _first_with(contents_N: NDArray[np.int64], wanted_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Q,) the first place with each content, -1 where there is none."""
    values, first = np.unique(contents_N, return_index=True)
    place = np.minimum(np.searchsorted(values, wanted_Q), len(values) - 1)
    return np.where(values[place] == wanted_Q, first[place], -1)


def _known(nearest: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    every = np.concatenate([np.empty(0, np.float32), *nearest])
    known: NDArray[np.float32] = every[every > -1]  # -1: nothing to be compared with
    return known

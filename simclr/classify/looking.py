"""Pairs that vectors propose -> those that look alike, by small pictures, a block at a time. Groups nothing.

Shape letters: Q = images of a block, K = their nearest of other contents, P = pairs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr.classify.duplicates import Facts
from simclr.classify.looks import alike, views
from simclr.classify.near import nearest_contents
from simclr.classify.small_pictures import SmallPictures
from simclr.embed.index.neighbours import Finder
from simclr.embed.store import Store

NEAREST = 16
"""Images that are looked at for each, the nearest by their vectors: an encoder that learned on little finds 99 of 100 copies among them."""
_TOGETHER = 512
"""Pairs looked at at once: 40 MB."""


@dataclass(frozen=True, eq=False)
class Looked:
    """The images of a block, by their places in their store, and how alike those that are proposed look, by their places in the other."""

    places_Q: NDArray[np.int64]
    found_QK: NDArray[np.int64]
    """-1 where there are fewer."""
    alike_QK: NDArray[np.float32]
    """In -1..1; -1 where one of the two could not be read."""


def look_at(
    store: Store,
    facts: Facts,
    pictures: SmallPictures,
    finder: Finder,
    among: Facts,
    pictures_among: SmallPictures,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, words: None,
) -> Iterator[Looked]:
    """Each content of a store against the nearest of those behind the finder, which may be its own."""
    wanted_N = facts.firsts == np.arange(len(facts.ids))
    done = 0
    progress(0, len(facts.ids), "")
    for ids, vectors in store.blocks():
        places = np.searchsorted(facts.ids, ids)
        asked = np.flatnonzero(wanted_N[places] & pictures.seen_N[places])
        for part in np.array_split(asked, -(-len(asked) // 1024) or 1):
            own_Q = facts.contents[places[part]]
            found_QK = nearest_contents(among, finder, vectors[part], own_Q, min(NEAREST, len(among.ids)))
            one_P = np.repeat(places[part], found_QK.shape[1])
            alike_P = looks_of(pictures, one_P, pictures_among, found_QK.ravel())
            yield Looked(places[part], found_QK, alike_P.reshape(found_QK.shape))
        done += len(ids)
        progress(done, len(facts.ids), "")


def looks_of(
    one: SmallPictures, one_P: NDArray[np.int64], other: SmallPictures, other_P: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(P,) how alike images look; -1 where one of them was not seen, or the place is -1."""
    found_P = np.full(len(one_P), -1, np.float32)
    seen = np.flatnonzero((other_P >= 0) & one.seen_N[one_P] & other.seen_N[other_P])
    for start in range(0, len(seen), _TOGETHER):
        part = seen[start : start + _TOGETHER]
        found_P[part] = alike(_views(one, one_P[part]), _views(other, other_P[part]))
    return found_P


def _views(pictures: SmallPictures, places_P: NDArray[np.int64]) -> NDArray[np.float32]:
    """Made once for each place."""
    once, which_P = np.unique(places_P, return_inverse=True)
    found: NDArray[np.float32] = views(pictures.pictures[once])[which_P]
    return found

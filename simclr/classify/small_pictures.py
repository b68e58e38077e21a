"""The images of a store, read again -> a small picture of each, on disk while they are compared: 4.8 kB an image. Compares nothing.

Shape letters: N = images of a store, P = some of them.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import blake3
import numpy as np
from numpy.typing import NDArray

from simclr.classify.duplicates import Facts
from simclr.classify.looks import KEPT, small_picture
from simclr.classify.near import Show
from simclr.cpus import available_cpus
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.errors import ImageError, SimclrError
from simclr.images import decode

_TOGETHER = 256
"""Images whose rows are at hand while they are read."""


@dataclass(frozen=True, eq=False)
class SmallPictures:
    """One for each content, at the place of its first image."""

    pictures: NDArray[np.uint8]
    """(N, 3, KEPT, KEPT)"""
    seen_N: NDArray[np.bool_]
    """Whether there is one."""
    lost: int
    """Contents of which no image could be read again."""


@contextmanager
def small_pictures(store: Store, facts: Facts, *, show: Show) -> Iterator[SmallPictures]:
    """Raises ImageError, naming the first, where more than half of the images cannot be read, or have changed since."""
    firsts_N = facts.firsts
    seen_N = np.zeros(len(firsts_N), bool)
    reason = ""
    with tempfile.TemporaryFile(prefix="simclr-") as file:
        file.truncate(len(firsts_N) * 3 * KEPT * KEPT)
        pictures = np.memmap(file, np.uint8, "r+", shape=(len(firsts_N), 3, KEPT, KEPT))
        with show("looking at the images") as update, ThreadPoolExecutor(available_cpus()) as pool:
            update(0, len(firsts_N), "")
            done = 0
            for rows in _rows(store):
                slots = firsts_N[np.searchsorted(facts.ids, [row.id for row in rows])].tolist()
                open_ = [(slot, row) for slot, row in zip(slots, rows, strict=True) if not seen_N[slot]]
                made = pool.map(partial(_made, store), [row for _, row in open_])
                for (slot, _), picture in zip(open_, made, strict=True):
                    if isinstance(picture, str):
                        reason = reason or picture
                    else:
                        pictures[slot], seen_N[slot] = picture, True
                done += len(rows)
                update(done, len(firsts_N), "")
        distinct = len(np.unique(firsts_N))
        lost = distinct - int(seen_N.sum())
        if 2 * lost > distinct:
            raise ImageError(
                f"{reason}, and so it is with {lost:,} of {distinct:,} images that would be compared. "
                "Bring the store in step with `simclr embed`, or compare vectors alone: --threshold 0.95"
            )
        yield SmallPictures(pictures, seen_N, lost)


def bytes_of(store: Store, row: Row) -> bytes:
    """The image that was embedded. Raises ImageError where it is another by now."""
    data = store.read(row)
    if blake3.blake3(data).hexdigest() != row.content_hash:
        raise ImageError("has changed since it was embedded")
    return data


def _rows(store: Store) -> Iterator[list[Row]]:
    for table in store.tables():
        for batch in table.to_batches(max_chunksize=_TOGETHER):
            yield [Row(**values) for values in batch.to_pylist()]


def _made(store: Store, row: Row) -> NDArray[np.uint8] | str:
    """Or why there is none."""
    try:
        return small_picture(decode(bytes_of(store, row), enough=lambda w, h: min(w, h, 2 * KEPT)).image)
    except SimclrError as exc:
        return f"{store.path(row)}: {str(exc).rstrip('.')}"

"""Bring an index in step with its store: what is gone goes out, what is new or changed comes in. Only what changed is read.

Where the type lets entries be taken out, they are; elsewhere they are buried (`anatomy.py`). An index is built anew, by the
same wish, when a fifth of its entries are buried, when it has grown to twice what it was built with, or when it cannot be trusted.
"""

import dataclasses
from pathlib import Path

from simclr.artifacts import IndexInfo, IndexWish
from simclr.embed.index.anatomy import Anatomy
from simclr.embed.index.build import Note, Progress, build, ignore, relative
from simclr.embed.index.entries import Entries
from simclr.embed.index.files import changing, describe, load_entries, load_index, save_index, sidecar
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.proving import below_recall, measure_again
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.errors import ArtifactError

MOST_BURIED = 0.2
"""Share of the entries; a search reads them in vain."""
MOST_GROWN = 2.0
"""Times what it was built with: beyond, another type or more lists may be better."""
_MOST_CHANGED = 0.1
"""Share of its vectors, from which on it is measured again."""
_BLOCK = 4096
"""Vectors added at once."""


def update_index(
    store: Store,
    path: str | Path,
    wish: IndexWish | None = None,
    *,
    progress: Progress = ignore,
    note: Note = ignore,
) -> IndexInfo:
    """The index as it is where it is whole and in step with the store; brought in step, or built anew, otherwise.

    `wish` is what it shall be from now on; None keeps what it was asked to be. Another one builds it anew. Raises as `build_index`.
    """
    path = Path(path)
    with changing(path):
        try:
            info = describe(path)
        except ArtifactError:  # missing or damaged: an index is derived, so building it is the repair
            return build(store, path, wish or IndexWish(), progress=progress, note=note)
        wish = wish or info.wish
        ours = (info.store_uid, info.identity, info.wish) == (store.info.uid, store.info.identity, wish)
        if ours and info.generation == store.info.generation:
            return _at(store, path, info)
        held = load_entries(path, info) if ours else None
        if held is None:
            return build(store, path, wish, progress=progress, note=note)
        return _update(store, path, held, progress=progress, note=note)


def _at(store: Store, path: Path, info: IndexInfo) -> IndexInfo:
    """The sidecar tells where the store lies, which may have been moved."""
    where = relative(store, path)
    if where != info.store:
        info = dataclasses.replace(info, store=where)
        info.save(sidecar(path))
    return info


def _update(store: Store, path: Path, held: Entries, *, progress: Progress, note: Note) -> IndexInfo:
    index, info = load_index(path)
    anatomy = Anatomy.of(index)
    wanted = Entries.of(store, held)
    gone, fresh = held.lacking(wanted), wanted.lacking(held)
    buried = info.buried + (0 if anatomy.removes else len(gone))
    if why := _worn(info, len(wanted.ids), buried):
        note(f"index: {why}, so it is built anew")
        return build(store, path, info.wish, progress=progress, note=note)
    anatomy.remove(gone)
    lookup = Lookup(store)
    for start in range(0, len(fresh), _BLOCK):
        ids = fresh[start : start + _BLOCK]
        index.add_with_ids(unit_vectors(lookup.vectors(ids)), ids)
        progress(start + len(ids), len(fresh), "")
    info = dataclasses.replace(
        info,
        generation=store.info.generation,
        store=relative(store, path),
        size=len(wanted.ids),
        buried=buried,
        measured=info.measured | {"changed_since": info.measured["changed_since"] + len(gone) + len(fresh)},
    )
    if info.measured["changed_since"] > _MOST_CHANGED * info.size:
        info = dataclasses.replace(info, measured=measure_again(index, store, lookup, info))
        if why := below_recall(info.measured, info.wish):
            note(f"index: {why}, so it is built anew")
            return build(store, path, info.wish, progress=progress, note=note)
    return save_index(path, index, info, wanted)


def _worn(info: IndexInfo, size: int, buried: int) -> str:
    """Why an index of so many vectors is better built anew, in words; empty if it is not."""
    if not size:
        return "none of its vectors is left"
    if buried > MOST_BURIED * (size + buried):
        return f"{buried:,} of {size + buried:,} entries are dead"
    if size > MOST_GROWN * info.built_with:
        return f"it has grown from {info.built_with:,} to {size:,} vectors"
    return ""

"""Several indexes and their stores -> one of both: the stores are merged, the largest index goes on and gets what it lacks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from simclr.artifacts import IndexInfo, IndexWish
from simclr.embed.index.build import Note, Progress, ignore, relative
from simclr.embed.index.files import changing, describe, load_entries, load_index, save_index
from simclr.embed.index.update import update_index
from simclr.embed.merge import merge_stores
from simclr.embed.store import Store
from simclr.errors import ArtifactError, ConfigError


def merge_indexes(
    paths: Sequence[Path],
    out: Path,
    wish: IndexWish | None = None,
    *,
    progress: Progress = ignore,
    note: Note = ignore,
) -> IndexInfo:
    """Write the index `out`, and `out` with the ending `.store` beside it; nothing is embedded, no index of `paths` is changed.

    Images of the largest index keep their ids. Without a `wish` the merged index is what that one was asked to be.
    Raises ConfigError if there are not two, or `out` exists, EncoderMismatch, ArtifactError if one is damaged.
    """
    if len({path.resolve() for path in paths}) < 2:
        raise ConfigError(
            "two indexes or more are needed to merge. Run: simclr index merge A.faiss B.faiss --out C.faiss"
        )
    if out.exists():
        raise ConfigError(f"{out}: exists. Give the merged index another --out.")
    infos = {path: describe(path) for path in paths}
    largest = max(paths, key=lambda path: infos[path].size)
    ordered = [largest, *(path for path in paths if path != largest)]
    stores = [Store.open(path.parent / infos[path].store) for path in ordered]
    for path, store in zip(ordered, stores, strict=True):
        if store.info.uid != infos[path].store_uid:
            raise ArtifactError(
                f"{path}: was not built from {store.folder}. Bring it in step with `simclr embed` first."
            )
    folder = out.with_suffix(".store")
    doubled = merge_stores(stores, folder)
    if doubled:
        note(f"{doubled:,} images are in several stores, and once in {folder}")
    merged = Store.open(folder)
    with changing(out):
        index, info = load_index(largest)
        held = load_entries(largest, info)
        if held is not None:  # else the index is built from nothing
            info = dataclasses.replace(
                info, store_uid=merged.info.uid, generation=0, store=relative(merged, out)
            )
            save_index(out, index, info, held)
    return update_index(merged, out, wish, progress=progress, note=note)

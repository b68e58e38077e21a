"""Read an index in full and compare it with its sidecar, its entries and its store; measure it again. Mends nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simclr.artifacts import IndexInfo
from simclr.embed.index.anatomy import NOBODY, Anatomy
from simclr.embed.index.entries import Entries
from simclr.embed.index.files import describe, entries_file, load_entries, load_index
from simclr.embed.index.proving import measure_again
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.errors import ArtifactError


@dataclass(frozen=True)
class Checked:
    info: IndexInfo
    faults: tuple[str, ...]
    """What is damaged, in words."""
    missing: int
    """Vectors of the store that the index does not have yet."""
    superfluous: int
    """Vectors of the index that the store has no more."""
    measured: dict[str, Any]
    """As it is now, against the store as it is now; empty where something is damaged."""


def check_index(path: Path, *, store: Path | None = None) -> Checked:
    """Raises ArtifactError where there is no index, its SHA-256 or its sidecar is wrong, or its store is missing or damaged."""
    info = describe(path, remembered=False)
    index, _ = load_index(path)
    opened = Store.open(store or path.parent / info.store)
    if opened.info.uid != info.store_uid:
        raise ArtifactError(
            f"{path}: was not built from {opened.folder}. Give the store it was built from with --store."
        )
    held, now = load_entries(path, info), Entries.of(opened, Entries.none())
    if held is None:
        words = f"{entries_file(path)}: missing or damaged, so the next update builds the index anew"
        return Checked(info, (words,), 0, 0, {})
    faults = tuple(_faults(index, info, held))
    missing, superfluous = len(now.lacking(held)), len(held.lacking(now))
    if info.generation == opened.info.generation and missing + superfluous:
        faults += (
            f"{missing:,} vectors of the store are not in the index as they are, though it should be in step",
        )
    measured = {} if faults else measure_again(index, opened, Lookup(opened), info)
    return Checked(info, faults, missing, superfluous, measured)


def _faults(index: Any, info: IndexInfo, held: Entries) -> Iterator[str]:
    ids = Anatomy.of(index).stored_ids()
    alive = np.sort(ids[ids != NOBODY])
    if int(index.ntotal) != len(ids):
        yield f"says that it has {index.ntotal:,} entries and has {len(ids):,}"
    if len(ids) - len(alive) != info.buried:
        yield f"has {len(ids) - len(alive):,} dead entries, {info.buried:,} by its sidecar"
    if not np.array_equal(alive, held.ids):
        yield f"has {len(alive):,} ids that are not the {len(held.ids):,} of its entries"
    if len(alive) != info.size:
        yield f"has {len(alive):,} vectors, {info.size:,} by its sidecar"
    if index.d != info.width:
        yield f"has vectors of {index.d} numbers, {info.width} by its sidecar"

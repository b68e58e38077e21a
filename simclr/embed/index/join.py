"""The parts of an index -> the index, without its lists in memory: joined, tuned, measured on the whole. Fills no part.

What was left out of all parts is put in last, once the rest has been tuned and measured by it, as in `build.py`. The index is one file
like any other, and the parts stay.
"""

from functools import partial
from pathlib import Path

import numpy as np

from simclr.artifacts import IndexInfo, write_atomically
from simclr.embed.exact import Neighbours
from simclr.embed.index.build import Note, described, ignore
from simclr.embed.index.entries import Entries, key_of
from simclr.embed.index.files import changing, read_index, save_written
from simclr.embed.index.joined_lists import write_joined
from simclr.embed.index.parts import folder_of, load_parts
from simclr.embed.index.proving import measure, seconds_of_rerank, tuned
from simclr.embed.index.set_apart import LEFT_OUT, MEASURING, TUNING
from simclr.embed.index.tuning import Truth
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.errors import ArtifactError


def join_parts(store: Store, path: str | Path, *, note: Note = ignore) -> IndexInfo:
    """Write the index whose parts `build_part` has filled; whatever was at `path` stays until the new one is whole.

    Takes disk for the index twice, memory for about 80 bytes a vector. Raises ArtifactError if a part is missing or damaged, or the store has changed.
    """
    path = Path(path)
    with changing(path):
        trained, kept = load_parts(store, path)
        note(f"index: joining parts 1 to {len(kept)}, {sum(part.info.size for part in kept):,} vectors")
        arrays = [part.arrays() for part in kept]
        entries = Entries.joined([Entries.of_arrays(each) for each in arrays])
        if set(entries.shards) != {key_of(shard) for shard in store.info.shards}:
            raise ArtifactError(
                f"{folder_of(path)}: its parts were filled from another copy of {store.folder}. Delete them, and build them from this one."
            )
        held, lookup = trained.arrays(), Lookup(store)
        truth = Truth(held["vectors"], _merged([(each["similarities"], each["near"]) for each in arrays]))
        del arrays
        unfinished = folder_of(path) / "joined.faiss"
        for leftover in unfinished.parent.glob(f".{unfinished.name}.*.tmp"):  # of one that was killed
            leftover.unlink()
        try:
            parts = [read_index(part.index_file, mapped=True) for part in kept]
            write_atomically(
                unfinished, partial(write_joined, trained=read_index(trained.index_file), parts=parts)
            )
            note("index: tuning and measuring it on the whole")
            index, wish = read_index(unfinished, mapped=True), trained.info.wish
            cost = seconds_of_rerank(lookup, truth.queries)
            setting = tuned(index, lookup, truth.part(TUNING), wish, seconds_of_rerank=cost)
            measured = measure(index, lookup, truth.part(MEASURING), setting, how=LEFT_OUT)
            rest = read_index(trained.index_file)
            rest.add_with_ids(held["vectors"], held["ids"])
            info = described(
                store,
                path,
                wish=wish,
                factory=trained.info.factory,
                search_parameters=setting.parameters(index),
                measured=measured,
                reason=trained.info.reason,
                trials=trained.info.trials,
            )
            whole = partial(write_joined, trained=read_index(trained.index_file), parts=[index, rest])
            return save_written(path, whole, info, entries)
        finally:
            unfinished.unlink(missing_ok=True)


def _merged(parts: list[Neighbours]) -> Neighbours:
    """The nearest of each query among those of all parts."""
    similarities = np.concatenate([similarities for similarities, _ in parts], 1)
    ids = np.concatenate([ids for _, ids in parts], 1)
    best = np.argsort(-similarities, axis=1, kind="stable")[:, : parts[0][0].shape[1]]
    return np.take_along_axis(similarities, best, 1), np.take_along_axis(ids, best, 1)

"""Several stores of one encoder -> one new store with all their rows. Embeds nothing; leaves the stores as they are."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simclr.embed import shards
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.embed.writer import StoreWriter, writing
from simclr.errors import ConfigError, EncoderMismatch


def merge_stores(stores: Sequence[Store], out: Path) -> int:
    """Write the store `out`, whole or not at all; returns how many rows were left out, since an earlier store has the same image.

    Images of the first store keep their ids, those of the others get new ones behind them. Raises EncoderMismatch if not all are of one
    encoder, ConfigError if `out` exists, ArtifactError if a shard is damaged.
    """
    first, *others = stores
    if out.exists():
        raise ConfigError(f"{out}: exists. Give the merged index another --out.")
    for other in others:
        if other.info.identity != first.info.identity:
            raise EncoderMismatch(
                f"{other.folder}: its vectors were made by encoder {other.info.identity[:8]}, those of {first.folder} by {first.info.identity[:8]}. "
                "Only stores of one encoder can be merged."
            )
    unfinished = out.with_name(f".{out.name}.merging")
    shutil.rmtree(unfinished, ignore_errors=True)  # of one that was killed
    seen: set[tuple[int, str]] = set()
    doubled = 0
    with writing(
        unfinished, model=first.model, identity=first.info.identity, width=first.info.width
    ) as writer:
        writer.new_ids(first.info.next_id)
        for store in stores:
            doubled += _append(writer, store, seen, keep_ids=store is first)
    os.rename(unfinished, out)
    return doubled


def _append(writer: StoreWriter, store: Store, seen: set[tuple[int, str]], *, keep_ids: bool) -> int:
    writer.add_sources(store.info.sources)
    place = {source: number for number, source in enumerate(writer.info.sources)}
    sources = [place[source] for source in store.info.sources]
    doubled = 0
    for shard in store.info.shards:
        shards.verify_shard(store.folder, shard)
        vectors = shards.read_vectors(store.folder, shard)
        table = shards.read_metadata(store.folder, shard).to_pylist()
        rows = [replace(Row(**values), source=sources[values["source"]]) for values in table]
        fresh = [place for place, row in enumerate(rows) if (row.source, row.image_path) not in seen]
        seen.update((row.source, row.image_path) for row in rows)
        doubled += len(rows) - len(fresh)
        ids = [rows[place].id for place in fresh] if keep_ids else list(writer.new_ids(len(fresh)))
        renamed = [replace(rows[place], id=id) for place, id in zip(fresh, ids, strict=True)]
        writer.commit(renamed, vectors[fresh].astype("float32"))
    return doubled

"""What a store consists of."""

from dataclasses import dataclass

from simclr.artifacts.base import Artifact


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """Where embedded images come from; see `sources.inventory`."""

    kind: str
    """folder, list, tar, zip or parquet."""
    root: str
    """What the paths of its rows are relative to: an absolute folder or a URL; of a list, the list."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    number: int
    """Never given to another shard of this store."""
    rows: int
    vectors_sha256: str
    metadata_sha256: str


@dataclass(frozen=True, kw_only=True)
class StoreInfo(Artifact):
    """A store: which shards it consists of. A shard not listed here does not exist."""

    KIND = "store"
    MADE_BY = "embed"
    SEALED = True

    uid: str
    """Drawn when the store is created: one made anew at the same path is another store, with other ids."""
    generation: int
    """Raised by every change, so that an index knows whether it is behind."""
    identity: str
    width: int
    sources: tuple[SourceInfo, ...]
    """A row's `source` counts into this list, which only grows."""
    next_id: int
    next_shard: int
    shards: tuple[ShardInfo, ...]

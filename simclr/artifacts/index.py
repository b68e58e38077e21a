"""What an index was asked to be, what else it might have been, and what it is."""

from dataclasses import dataclass
from typing import Any

from simclr.artifacts.base import Artifact
from simclr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class IndexWish:
    """What an index is asked to be."""

    index_type: str = "auto"
    """`auto`, or a FAISS factory string."""
    memory: int | None = None
    """Bytes that it may take while it is searched; None is half of what is free when it is built."""
    recall: float = 0.95
    """recall@10, in 0..1."""
    latency: float = 10.0
    """Milliseconds of one query alone, the encoder's time not among them."""

    def __post_init__(self) -> None:
        if not self.index_type.strip():
            raise ConfigError("index type: empty. Use auto, or a factory string such as IVF1024,SQ8.")
        if self.memory is not None and self.memory <= 0:
            raise ConfigError(f"memory ({self.memory}) must be more than 0 bytes.")
        if not 0 < self.recall <= 1:
            raise ConfigError(f"recall ({self.recall:g}) must be more than 0 and at most 1.")
        if not 0 < self.latency < float("inf"):
            raise ConfigError(f"latency ({self.latency:g}) must be more than 0 milliseconds.")


@dataclass(frozen=True, kw_only=True)
class IndexTrial:
    """One index type that was considered: what it would be with all vectors, as a sample tells."""

    factory: str
    memory: int
    """Bytes."""
    recall: float | None
    """recall@10; None where it was not tried."""
    queries_per_second: float | None
    latency: float | None
    """Milliseconds."""
    build_seconds: float | None
    verdict: str
    """Chosen, or why not."""


@dataclass(frozen=True, kw_only=True)
class IndexInfo(Artifact):
    """An index and the store it was built from."""

    KIND = "index"
    MADE_BY = "index build"
    SEALED = True

    sha256: str
    generation: int
    """Of the store when the index was last brought in step."""
    store: str
    """Path of the store, relative to the folder of the index."""
    store_uid: str
    identity: str
    width: int
    size: int
    """Vectors in it."""
    buried: int
    """Entries beside these that are dead and wait for the next building."""
    built_with: int
    """Vectors that it had when it was last built as a whole."""
    factory: str
    """FAISS factory string."""
    search_parameters: dict[str, float]
    """nprobe or efSearch, and rerank: how many of the index's best are ranked again by the store's vectors, to find ten."""
    wish: IndexWish
    reason: str
    """Why this type, in words."""
    trials: tuple[IndexTrial, ...]
    """All types that were considered."""
    measured: dict[str, Any]
    """recall@10, latency, queries a second, memory, and how they were measured."""
    entries_sha256: str
    """Of the file that says which version of which vector it holds."""

    def __post_init__(self) -> None:
        counts = (self.generation, self.width - 1, self.size, self.buried, self.built_with)
        if not all(0 <= count < 1 << 62 for count in counts):
            raise ValueError("a count is negative, or beyond all reason")
        if not all(1 <= value < 1 << 31 for value in self.search_parameters.values()):
            raise ValueError(f"search parameters {self.search_parameters} are not numbers of 1 and more")
        for name in _FIGURES:
            value = self.measured.get(name)
            if not isinstance(value, int | float) or not 0 <= value < 1 << 62:
                raise ValueError(f"measured: {name} is not a number of 0 or more")


@dataclass(frozen=True, kw_only=True)
class TrainedInfo(Artifact):
    """An index without entries, which many processes fill, each with a part of a store."""

    KIND = "trained index"
    MADE_BY = "index train"
    SEALED = True

    sha256: str
    arrays_sha256: str
    """Of the file with the vectors that are left out of all parts."""
    store_uid: str
    generation: int
    """Of the store that it was trained for: the parts are those of this one."""
    factory: str
    wish: IndexWish
    reason: str
    trials: tuple[IndexTrial, ...]


@dataclass(frozen=True, kw_only=True)
class PartInfo(Artifact):
    """A part of an index: a trained one with the vectors of some shards of the store."""

    KIND = "index part"
    SEALED = True

    sha256: str
    arrays_sha256: str
    """Of the file with its entries, and with what is near the queries among them."""
    size: int
    """Vectors in it."""


_FIGURES = ("recall@10", "queries_per_second", "latency_ms", "latency_p99_ms", "bytes", "changed_since")
"""That are measured of every index."""

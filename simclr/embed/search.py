"""Queries -> hits, always by cosine. Refuses vectors of another encoder. No building.

index = Index.open("out.faiss")
for hit in index.search("beach.jpg", k=5, where="width > 800")[0]:
    print(hit.similarity, hit.path)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr.artifacts import IndexInfo
from simclr.embed.index.files import load_index
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
from simclr.embed.store import Store
from simclr.embed.where import Images
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch, ImageError
from simclr.free_memory import free_memory
from simclr.images import Picture, decode
from simclr.runtime import Encoder
from simclr.sources import place_of, read_place

Query = str | Path | Image.Image | int
"""An image: its path, the path of a hit in a tar, zip or Parquet file, or a URL; a Pillow image; or the id of a stored one."""


@dataclass(frozen=True)
class Hit:
    path: str
    """Openable."""
    similarity: float
    """Cosine, in -1..1."""
    id: int


class Index:
    """An index with its store and, once an image is asked for, its encoder. Make one with `Index.open`."""

    def __init__(self, index: Any, info: IndexInfo, store: Store, model: Path) -> None:
        self.info = info
        self.store = store
        self._index = index
        self._model = model

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        store: str | Path | None = None,
        model: str | Path | None = None,
        mapped: bool | None = None,
    ) -> Self:
        """Open an index; `store` and `model` default to those it was built from.

        `mapped`: read its file only as far as it is used, instead of whole; None does so where it is more than half of
        the free memory. Raises ArtifactError (missing, damaged, another store), EncoderMismatch (another encoder).
        """
        path = Path(path)
        if mapped is None:
            mapped = path.is_file() and path.stat().st_size > free_memory() // 2
        index, info = load_index(path, mapped=mapped)
        opened = Store.open(Path(store) if store else path.parent / info.store)
        if opened.info.identity != info.identity:
            raise EncoderMismatch(
                f"{path}: its vectors were made by encoder {info.identity[:8]}, but those of {opened.folder} by {opened.info.identity[:8]}. "
                "Give the store it was built from with --store."
            )
        if opened.info.uid != info.store_uid:
            raise ArtifactError(
                f"{path}: was not built from {opened.folder}, whose ids stand for other images. "
                "Give the store it was built from with --store, or bring the index in step with `simclr embed`."
            )
        return cls(index, info, opened, Path(model) if model else opened.model)

    def __len__(self) -> int:
        return self.info.size

    @property
    def stale(self) -> bool:
        """Whether the store has changed since the index was built."""
        return self.info.generation != self.store.info.generation

    @cached_property
    def encoder(self) -> Encoder:
        """Raises EncoderMismatch if the model is not the one that made the vectors."""
        encoder = Encoder.open(self._model)
        if encoder.identity != self.info.identity:
            raise EncoderMismatch(
                f"{self._model}: is encoder {encoder.identity[:8]}, but the index was made by {self.info.identity[:8]}. "
                "Leave out --model to use the encoder kept in the store, or embed again with this one."
            )
        return encoder

    def search(
        self,
        queries: NDArray[np.floating[Any]] | Query | Sequence[Query],
        k: int = 10,
        *,
        where: str | None = None,
        exclude_self: bool = False,
    ) -> list[list[Hit]]:
        """The k most similar images for each query, best first, equal ones by id; fewer where there are fewer.

        `queries`: one image or several, see `Query`, or vectors (Q, D) of this index's encoder, of any length above 0.
        `where`: only images that meet this SQL condition, see `where.py`. `exclude_self`: without the image that is
        asked for, by its id or its path; copies of it stay. Raises ImageError, ConfigError, EncoderMismatch, ArtifactError.
        """
        if isinstance(queries, np.ndarray):
            return self._hits(self._unit(queries), k, where, [()] * len(np.atleast_2d(queries)))
        images = [queries] if isinstance(queries, Query) else list(queries)
        selves: list[Sequence[Query]] = [(image,) if exclude_self else () for image in images]
        return self._hits(self.vectors(images), k, where, selves)

    def search_like(
        self,
        like: Sequence[Query],
        unlike: Sequence[Query] = (),
        k: int = 10,
        *,
        where: str | None = None,
        exclude_self: bool = False,
    ) -> list[Hit]:
        """The k images most like all of some, and less like others; see `search` and `blended`."""
        if not like:
            raise ConfigError(
                "no image to look for: what is only unlike others has no direction. Give one that it shall be like."
            )
        query = blended(self.vectors(like), self.vectors(unlike))
        excluded = [*like, *unlike] if exclude_self else []
        return self._hits(self._unit(query), k, where, [excluded])[0]

    def vectors(self, queries: Sequence[Query]) -> NDArray[np.float32]:
        """(Q, D) unit vectors of images and of stored ids. Raises as `search`."""
        found = np.empty((len(queries), self.info.width), np.float32)
        stored = [place for place, query in enumerate(queries) if isinstance(query, int)]
        if stored:
            ids = np.array([queries[place] for place in stored], np.int64)
            if not (held := self.lookup.holds(ids)).all():
                raise ConfigError(
                    f"id {ids[~held][0]}: {self.store.folder} has no image with this id. Search results say the ids with --json."
                )
            found[stored] = unit_vectors(self.lookup.vectors(ids))
        images = [place for place in range(len(queries)) if place not in set(stored)]
        if images:
            found[images] = self.encoder.encode([self._opened(queries[place]) for place in images])
        return found

    def ids(self, where: str | None = None) -> NDArray[np.int64]:
        """(N,) ids of the images that meet a condition, rising; of all without one. Raises as `Images.ids`."""
        return self.lookup.ids if where is None else self._images.ids(where)

    def names(self, queries: Sequence[Query]) -> tuple[str, ...]:
        """The path of each query as a hit would say it; `image` for a Pillow image."""
        ids = [query for query in queries if isinstance(query, int)]
        paths = iter(self.lookup.paths(np.array(ids, np.int64)))
        return tuple(
            next(paths)
            if isinstance(query, int)
            else "image"
            if isinstance(query, Image.Image)
            else str(query)
            for query in queries
        )

    def _hits(
        self, vectors: NDArray[np.float32], k: int, where: str | None, selves: Sequence[Sequence[Query]]
    ) -> list[list[Hit]]:
        """`selves`: for each query the images that are no hits of it."""
        if k < 1:
            raise ConfigError(f"k ({k}) must be at least 1.")
        allowed = None if where is None else self._images.ids(where)
        more = max(map(len, selves), default=0)
        similarities, ids = self._finder.find(vectors, k + more, allowed=allowed)
        wanted = np.unique(ids[ids >= 0])
        paths = dict(zip(wanted.tolist(), self.lookup.paths(wanted), strict=True))
        found = []
        for similarity_row, id_row, own in zip(similarities.tolist(), ids.tolist(), selves, strict=True):
            hits = [
                Hit(path=paths[id], similarity=min(1.0, max(-1.0, similarity)), id=id)
                for similarity, id in zip(similarity_row, id_row, strict=True)
                if id >= 0
            ]
            if own:
                excluded = {_name(query) for query in own}
                hits = [hit for hit in hits if not {hit.id, os.path.realpath(hit.path)} & excluded]
            found.append(hits[:k])
        return found

    def _opened(self, query: Query) -> str | Path | Image.Image | Picture:
        """An image in a tar, zip or Parquet file, or behind a URL, as a hit's path names it, is decoded here."""
        assert not isinstance(query, int)
        if isinstance(query, Image.Image) or Path(query).is_file():
            return query
        try:
            return decode(read_place(place_of(str(query))), enough=self.encoder.recipe.enough)
        except ImageError as exc:
            raise ImageError(f"{query}: {exc}.") from exc

    def _unit(self, queries: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        vectors = np.atleast_2d(queries).astype(np.float64)  # float32 loses lengths below 1e-19
        if vectors.ndim != 2 or vectors.shape[1] != self.info.width:
            raise ConfigError(
                f"query vectors of shape {queries.shape}: this index holds vectors of width {self.info.width}."
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all((lengths > 0) & np.isfinite(lengths)):
            raise ConfigError("a query vector is zero or not finite, so it has no direction to compare.")
        unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
        return unit

    @cached_property
    def lookup(self) -> Lookup:
        """Vectors, paths and sizes of the images by their ids."""
        return Lookup(self.store)

    @cached_property
    def _finder(self) -> Finder:
        return Finder.of(self._index, self.info, self.lookup)

    @cached_property
    def _images(self) -> Images:
        return Images(self.store)


def blended(like_ND: NDArray[np.float32], unlike_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D,) what to look for, so that it is like all of some, one or more, and less like others.

    The mean of the first, or twice that less the mean of the others: so its similarity to those falls while it stays near these
    (Qdrant's `average_vector`; Rocchio 1971 with equal weights on the mean of the first).
    """
    mean_D: NDArray[np.float32] = like_ND.mean(0)
    return 2 * mean_D - unlike_MD.mean(0) if len(unlike_MD) else mean_D


def _name(query: Query) -> int | str | None:
    """By what a hit is told to be the query: its id, or where its file lies."""
    if isinstance(query, Image.Image):
        return None
    return query if isinstance(query, int) else os.path.realpath(query)

"""Queries -> hits, always by cosine. Refuses vectors of another encoder. No building.

index = Index.open("out.faiss")
for hit in index.search("beach.jpg", k=5)[0]:
    print(hit.similarity, hit.path)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr.artifacts import IndexInfo
from simclr.embed.index import load_index, nearest
from simclr.embed.shards import Row
from simclr.embed.store import Store
from simclr.errors import ArtifactError, ConfigError, EncoderMismatch, ImageError
from simclr.images import Picture, decode
from simclr.runtime import Encoder
from simclr.sources import place_of, read_place

Query = str | Path | Image.Image


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
        cls, path: str | Path, *, store: str | Path | None = None, model: str | Path | None = None
    ) -> Self:
        """Open an index; `store` and `model` default to those it was built from.

        Raises ArtifactError (missing, damaged, another store), EncoderMismatch (another encoder).
        """
        path = Path(path)
        index, info = load_index(path)
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
        self, queries: NDArray[np.floating[Any]] | Query | Sequence[Query], k: int = 10
    ) -> list[list[Hit]]:
        """The k most similar images for each query, best first; fewer where the index holds fewer.

        `queries`: one image or several (paths, Pillow images), or vectors (Q, D) of this index's encoder, of any
        length above 0. Raises ImageError, ConfigError, EncoderMismatch.
        """
        if k < 1:
            raise ConfigError(f"k ({k}) must be at least 1.")
        if isinstance(queries, np.ndarray):
            vectors = self._unit(queries)
        else:
            images = [queries] if isinstance(queries, (str, Path, Image.Image)) else list(queries)
            vectors = self.encoder.encode([self._opened(image) for image in images])
        rows = self._rows
        wanted = min(k, len(self))
        while True:
            products, ids = nearest(self._index, vectors, wanted)
            hits = [
                [
                    self._hit(rows[id], product)
                    for id, product in zip(id_row, product_row, strict=True)
                    if id in rows
                ][:k]
                for id_row, product_row in zip(ids.tolist(), products.tolist(), strict=True)
            ]
            # a stale index may return images that have left the store: ask for more
            if wanted == len(self) or all(len(row) == k for row in hits):
                return hits
            wanted = min(2 * wanted, len(self))

    def _opened(self, query: Query) -> Query | Picture:
        """An image in a tar, zip or Parquet file, or behind a URL, as a hit's path names it, is decoded here."""
        if isinstance(query, Image.Image) or Path(query).is_file():
            return query
        try:
            return decode(read_place(place_of(str(query))), enough=self.encoder.recipe.enough)
        except ImageError as exc:
            raise ImageError(f"{query}: {exc}.") from exc

    def _hit(self, row: Row, product: float) -> Hit:
        return Hit(path=str(self.store.path(row)), similarity=min(1.0, max(-1.0, product)), id=row.id)

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
    def _rows(self) -> dict[int, Row]:
        return {row.id: row for row in self.store.rows()}

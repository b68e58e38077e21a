"""What a server can do, for its routes: searching, classifying, showing. Holds the queues, the pools and what is kept; knows no HTTP."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.embed.shards import Row
from simclr.serve.asking import Answer, Search, answered, unknown
from simclr.serve.background import Once
from simclr.serve.batches import Batches
from simclr.serve.collection import Collection, Served
from simclr.serve.copies import copies
from simclr.serve.limits import Limits
from simclr.serve.map import mapped
from simclr.serve.metrics import Metrics
from simclr.serve.pictures import Shown, original, thumbnail
from simclr.serve.pool import Pool
from simclr.serve.thumbnails import Thumbnails
from simclr.serve.uploads import pixels

_TOGETHER = 64
"""Searches in one call: FAISS gains little beyond."""
_CONDITIONS = 2
"""Conditions that are looked into at once; they wait for one another in SQLite anyway."""

Value = TypeVar("Value")
Vector = NDArray[np.float32]
_Pixels = tuple[Served, NDArray[np.uint8]]


class Services:
    """Of one server. Use it from one event loop."""

    def __init__(
        self, collection: Collection, limits: Limits, metrics: Metrics, *, kept: Path, kept_bytes: int
    ) -> None:
        """`kept`: folder of thumbnails, of ours alone, and how many bytes they may take."""
        self.collection, self.limits = collection, limits
        self._metrics = metrics
        self._searches = Batches(
            answered,
            name="search",
            most=_TOGETHER,
            waiting=limits.waiting,
            worked=metrics.together.labels("searches").observe,
        )
        self._images = Batches(
            _encoded,
            name="encode",
            most=collection.now.index.encoder.batch,
            waiting=limits.waiting,
            worked=metrics.together.labels("images").observe,
        )
        self._decoding = Pool(available_cpus(), waiting=limits.waiting, seconds=limits.seconds / 2)
        self._files = Pool(2 * available_cpus(), waiting=4 * limits.waiting, seconds=limits.seconds / 2)
        self._slow = Pool(_CONDITIONS, waiting=limits.waiting // 8, seconds=limits.seconds)
        self._thumbnails = Thumbnails(kept, most=kept_bytes)
        turn = threading.Lock()
        self.map = Once(mapped, turn=turn)
        self.copies = Once(copies, turn=turn)
        for what, count in (
            ("searches", self._searches.__len__),
            ("images", self._images.__len__),
            ("decoding", lambda: self._decoding.asked),
            ("files", lambda: self._files.asked),
        ):
            metrics.waiting.labels(what).set_function(count)

    @property
    def now(self) -> Served:
        return self.collection.now

    async def search(self, search: Search) -> Answer:
        """Raises Refused, ConfigError (its condition), ArtifactError."""
        if search.where is None:
            return await self._searches.ask(search)
        # a condition may take seconds: those without one do not wait for it
        (answer,) = await self._slow.run(partial(answered, [search]))
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def vectors(self, served: Served, files: Sequence[bytes]) -> list[Vector]:
        """(D,) of each image file, of length 1. Raises Refused."""
        recipe, limit = served.index.encoder.recipe, self.limits.upload_pixels
        return [
            await self._images.ask(
                (served, await self._decoding.run(partial(pixels, data, recipe, limit=limit)))
            )
            for data in files
        ]

    async def original(self, served: Served, row: Row) -> Shown:
        """Raises Refused."""
        return await self._files.run(partial(original, served, row))

    async def thumbnail(self, served: Served, row: Row, size: int) -> Shown:
        """Raises Refused."""
        return await self._files.run(partial(thumbnail, served, row, size, self._thumbnails))

    async def row(self, served: Served, id: int) -> Row:
        """Raises Refused where there is no such image."""
        if id not in served.index.lookup:
            raise unknown(id)
        return await self.look_up(partial(served.index.lookup.row, id))

    async def look_up(self, work: Callable[[], Value]) -> Value:
        """What reads the metadata of the store, in a thread. Raises what `work` raises, Refused."""
        return await self._files.run(work)

    async def look_into(self, work: Callable[[], Value]) -> Value:
        """The same of what takes long."""
        return await self._slow.run(work)

    def close(self) -> None:
        """What waits is answered first."""
        self.collection.close()
        self._images.close()
        self._searches.close()


def _encoded(batch: Sequence[_Pixels]) -> list[Vector | Exception]:
    """Each with the encoder of its own state of the collection; they differ only while one takes the other's place."""
    found: list[Vector | Exception] = []
    start = 0
    while start < len(batch):
        encoder = batch[start][0].index.encoder
        end = start + 1
        while end < len(batch) and batch[end][0].index.encoder is encoder:
            end += 1
        found += list(encoder(np.stack([pixels for _, pixels in batch[start:end]])))
        start = end
    return found

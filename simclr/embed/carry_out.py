"""A plan -> a store that agrees with it, a commit a shard: embedded images, contents taken over, rows dropped.

Takes what embeds and a writer; gives a Report. Content that the store has under another path is taken over with its
vector, and keeps its id where that path is gone.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from simclr.embed import writer as writer_module
from simclr.embed.known import prefix
from simclr.embed.plan import Candidate, Plan
from simclr.embed.shards import Row
from simclr.embed.skips import Skips
from simclr.embed.tasks import Done, Embedded, Embeds, Known, Seconds, Task, bound
from simclr.embed.writer import StoreWriter

_SOME = 4
"""Rows looked at for a content: the last ones added, since earlier ones may have changed or gone."""

SHARD_SECONDS = 30.0
"""A shard closes after these, or when it is full; a kill loses at most one shard's work."""

Progress = Callable[[int, int, str], None]
"""Called with images done, images in all, and a few words."""


@dataclass
class Report:
    """What one run did, in images."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    """Found under another path; id and vector are those they had."""
    copied: int = 0
    """New paths of contents that the store had, or that came twice; their vectors were taken over."""
    kept: int = 0
    dropped: int = 0
    skipped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why, and how many."""
    seconds: float = 0.0
    """Of embedding, not of looking through the sources."""
    bound: str = ""
    """What decided the rate: model, decoding, or reading."""

    @property
    def embedded(self) -> int:
        return self.added + self.changed

    @property
    def there(self) -> int:
        """Images of these sources that the store holds now."""
        return self.added + self.changed + self.moved + self.copied + self.kept


def carry_out(
    plan: Plan,
    writer: StoreWriter,
    lane: Embeds,
    skips: Skips,
    *,
    progress: Progress,
    stopped: Callable[[], bool],
) -> Report:
    """Look into every candidate, and commit shard by shard. Raises KeyboardInterrupt once `stopped` and committed."""
    report = Report(kept=plan.kept)
    _Run(plan, writer, report, skips).embed(lane, progress, stopped)
    report.skipped, report.reasons = skips.count, dict(skips.reasons.most_common())
    return report


class _Run:
    """From a plan to commits."""

    def __init__(self, plan: Plan, writer: StoreWriter, report: Report, skips: Skips) -> None:
        self.plan, self.writer, self.report, self.skips = plan, writer, report, skips
        self._gone = set(plan.gone.tolist())
        """Ids whose image is gone, and has not been found elsewhere."""
        self._images: list[Embedded] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._known: list[Known] = []
        self._lost: list[int] = []
        """Ids of rows whose file holds no image any more."""
        self._again: list[int] = []
        """Numbers of candidates that only seemed to be known: 64 bits of another content, or of a row that has gone."""

    def embed(self, lane: Embeds, progress: Progress, stopped: Callable[[], bool]) -> None:
        started = closes = time.monotonic()
        closes += SHARD_SECONDS
        spent = Seconds()
        count = 0
        tasks: Iterable[Task] = self.plan.tasks()
        while True:
            for done in lane.run(tasks, self.plan.contents.all()) if len(self.plan) else ():
                self._take(done)
                count += len(done)
                spent = spent.plus(done.seconds)
                self.report.seconds, self.report.bound = time.monotonic() - started, bound(spent)
                progress(min(count, len(self.plan)), len(self.plan), self._words())
                if self._rows >= writer_module.SHARD_ROWS or time.monotonic() >= closes or stopped():
                    self._commit()
                    closes = time.monotonic() + SHARD_SECONDS
                if stopped():
                    raise KeyboardInterrupt
            self._commit()
            if not self._again:
                break
            tasks, self._again = [self.plan.task(number, fresh=True) for number in self._again], []
        self._drop()
        self.report.seconds = time.monotonic() - started

    def _words(self) -> str:
        words = [f"{self.skips.count:,} skipped"] if self.skips.count else []
        words += [f"bound by {self.report.bound}"] if self.report.bound else []
        return ", ".join(words)

    @property
    def _rows(self) -> int:
        return len(self._images) + len(self._known)

    def _take(self, done: Done) -> None:
        self._images += done.images
        if done.images:
            self._vectors.append(done.vectors)
        self._known += done.known
        for failed in done.failed:
            candidate = self.plan.candidate(failed.number)
            self.skips.add(self._root(candidate.source), candidate.name, failed.reason)
            if candidate.replaces is not None and failed.is_no_image:
                self._lost.append(candidate.replaces)  # its old vector is no longer true
            elif (
                candidate.replaces is not None
            ):  # a disk or a server that answers no more: the next run looks again
                self.report.kept += 1

    def _root(self, source: int) -> str:
        return self.writer.info.sources[source].root

    def _commit(self) -> None:
        """What has come since the last commit, with the vectors of contents that are known."""
        if not (self._images or self._known or self._lost or self.writer.info.generation == 0):
            return
        shard = _Shard(self.writer.info.width)
        new = sum(1 for image in self._images if self.plan.replaces[image.number] < 0)
        fresh = iter(self.writer.new_ids(new))
        for image, vector in zip(self._images, _rows_of(self._vectors), strict=True):
            candidate = self.plan.candidate(image.number)
            if candidate.replaces is None:
                shard.add(_row(candidate, next(fresh), image, image.width, image.height), vector)
                self.report.added += 1
            else:
                shard.replace(_row(candidate, candidate.replaces, image, image.width, image.height), vector)
                self.report.changed += 1
        self._take_over(shard)
        self.writer.commit(shard.rows, shard.vectors, drop=[*shard.replaced, *self._lost])
        self.plan.contents.add(
            np.array([prefix(bytes.fromhex(row.content_hash)) for row in shard.rows], np.uint64),
            np.array([row.id for row in shard.rows], np.int64),
        )
        self.report.dropped += len(self._lost)
        for part in (self._images, self._vectors, self._known, self._lost):
            part.clear()

    def _take_over(self, shard: "_Shard") -> None:
        """Give each known content the vector that this shard or the store has for it; what neither has is for `_again`."""
        if not self._known:
            return
        origins: dict[str, list[tuple[Row, NDArray[np.float32]]]] = {}
        for row, vector in zip(shard.rows, shard.vectors, strict=True):
            origins.setdefault(row.content_hash, []).append((row, vector))
        for row, vector in self.writer.look_up(np.array(sorted(self._origins_wanted()), np.int64)):
            origins.setdefault(row.content_hash, []).append((row, vector))
        holders = {hash: {row.id for row, _ in found} for hash, found in origins.items()}
        moved = {hash: [id for id in ids if id in self._gone] for hash, ids in holders.items()}
        for known in self._known:
            hash, candidate = known.digest.hex(), self.plan.candidate(known.number)
            if hash not in origins:
                self._again.append(known.number)
                continue
            like, vector = origins[hash][0]
            if candidate.replaces is not None:
                shard.replace(_row(candidate, candidate.replaces, known, like.width, like.height), vector)
                touched = candidate.replaces in holders[hash]
                self.report.kept += touched
                self.report.changed += not touched
            elif moved[hash]:
                id = moved[hash].pop()
                self._gone.remove(id)
                shard.replace(_row(candidate, id, known, like.width, like.height), vector)
                self.report.moved += 1
            else:
                (id,) = self.writer.new_ids(1)
                shard.add(_row(candidate, id, known, like.width, like.height), vector)
                self.report.copied += 1

    def _origins_wanted(self) -> set[int]:
        """Rows to look at: of each content a few, those that it may have moved from, and the one that is to be replaced.

        A picture that says "image not available" may be there a hundred thousand times.
        """
        wanted: set[int] = set()
        times = Counter(known.digest for known in self._known)
        ids = {digest: self.plan.contents.ids(digest) for digest in times}
        for digest, count in times.items():
            wanted.update(ids[digest][-_SOME:])
            wanted.update(islice((id for id in ids[digest] if id in self._gone), count))
        for known in self._known:
            replaced = int(self.plan.replaces[known.number])
            if replaced >= 0:
                wanted.add(replaced)
        return wanted

    def _drop(self) -> None:
        if self._gone:
            self.writer.commit([], np.empty((0, self.writer.info.width), np.float32), drop=self._gone)
            self.report.dropped += len(self._gone)


class _Shard:
    """Rows and vectors of the next commit, and the ids that they replace."""

    def __init__(self, width: int) -> None:
        self.rows: list[Row] = []
        self.replaced: list[int] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._width = width

    def add(self, row: Row, vector: NDArray[np.float32]) -> None:
        self.rows.append(row)
        self._vectors.append(vector)

    def replace(self, row: Row, vector: NDArray[np.float32]) -> None:
        self.add(row, vector)
        self.replaced.append(row.id)

    @property
    def vectors(self) -> NDArray[np.float32]:
        return np.array(self._vectors, np.float32).reshape(-1, self._width)


def _rows_of(blocks: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        yield from block


def _row(candidate: Candidate, id: int, file: Embedded | Known, width: int, height: int) -> Row:
    return Row(
        id=id,
        source=candidate.source,
        image_path=candidate.name,
        size=file.size if candidate.size < 0 else candidate.size,
        mtime_ns=candidate.stamp,
        content_hash=file.digest.hex(),
        width=width,
        height=height,
    )

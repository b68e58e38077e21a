"""Image folders -> a store that is in step with them. No faiss.

Decoding runs in threads ahead of the model; batches form after bad files have dropped out; shards are written
whole. What the store already has, by path, size and time of change, is not touched; what is gone is dropped.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event

import blake3
import numpy as np
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.embed.store import Row, Store
from simclr.errors import ConfigError, ImageError
from simclr.images import decode
from simclr.preprocess import Recipe
from simclr.runtime import Encodes
from simclr.sources import Found, Skipped, read, scan
from simclr.stopping import stop_requests

SHARD_ROWS = 4096
SHARD_SECONDS = 30.0
"""A shard closes at whichever comes first; a kill loses at most one shard's work."""
_LOOKAHEAD = 4
"""Batches decoded ahead of the model."""

Progress = Callable[[int, int, str], None]
"""Called with images done, images in all, and a few words."""


@dataclass
class Report:
    """What one run did."""

    added: int = 0
    changed: int = 0
    kept: int = 0
    dropped: int = 0
    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    """Source, path, reason."""

    @property
    def touched_store(self) -> bool:
        return bool(self.added or self.changed or self.dropped)


@dataclass(frozen=True)
class _Task:
    source: int
    root: Path
    found: Found
    replaces: int | None
    """Id of the row that an earlier version of this file has."""


@dataclass(frozen=True)
class _Decoded:
    pixels: NDArray[np.uint8]
    content_hash: str
    width: int
    height: int


def embed_folders(
    roots: Sequence[Path],
    store_path: Path,
    encoder: Encodes,
    *,
    model: Path,
    progress: Progress = lambda done, total, words: None,
) -> Report:
    """Bring the store in step with the folders: embed new and changed images, drop rows whose file is gone.

    Rows from folders that are not named are kept. A bad file never stops a run: it is listed in the report and
    in `skipped.csv`. `model` is the encoder's export folder, of which a new store keeps a copy. Ctrl-C or SIGTERM
    commits what is done and raises KeyboardInterrupt.

    Raises ImageError (a folder is missing or holds no image; nothing is dropped then), ConfigError (one folder
    lies in another), EncoderMismatch, ArtifactError.
    """
    roots = [root.resolve() for root in roots]
    if len(set(roots)) < len(roots):
        raise ConfigError(f"{', '.join(map(str, roots))}: the same folder twice. Give each folder once.")
    _refuse_nesting(set(roots))
    scans = [_scan(root) for root in roots]
    report = Report()
    with Store.writing(store_path, model=model, identity=encoder.identity, width=encoder.width) as store:
        _refuse_nesting({*roots, *map(Path, store.info.sources)})
        numbers = store.add_sources(roots)
        tasks, gone = _compare(store, roots, numbers, scans, report)
        with stop_requests() as stop:
            _embed(store, tasks, encoder, report, progress, stop)
        if gone:
            store.commit([], np.empty((0, encoder.width), np.float32), drop=gone)
            report.dropped += len(gone)
        report.skipped.sort()
        store.write_skipped(report.skipped)
    return report


def _refuse_nesting(roots: set[Path]) -> None:
    """Raises ConfigError where one root lies in another: its files would have two rows."""
    for inner in roots:
        if outer := roots.intersection(inner.parents):
            raise ConfigError(
                f"{inner}: lies in {outer.pop()}, which is in the store or given, too. Embed only one of them."
            )


def _scan(root: Path) -> tuple[list[Found], list[Skipped]]:
    found: list[Found] = []
    skipped: list[Skipped] = []
    for entry in scan(root):
        if isinstance(entry, Found):
            found.append(entry)
        else:
            skipped.append(entry)
    if not found:
        raise ImageError(f"{root}: no image found in it or below. Give a folder that holds images.")
    return found, skipped


def _compare(
    store: Store,
    roots: Sequence[Path],
    numbers: Sequence[int],
    scans: Sequence[tuple[list[Found], list[Skipped]]],
    report: Report,
) -> tuple[list[_Task], list[int]]:
    """Files to embed, and ids of rows whose file is gone. Counts what is kept, notes what was skipped."""
    have = {(row.source, row.image_path): row for row in store.rows() if row.source in numbers}
    tasks: list[_Task] = []
    for root, number, (found, skipped) in zip(roots, numbers, scans, strict=True):
        report.skipped += [(str(root), entry.path, entry.reason) for entry in skipped]
        for file in found:
            row = have.pop((number, file.path), None)
            if row and (row.size, row.mtime_ns) == (file.size, file.mtime_ns):
                report.kept += 1
            else:
                tasks.append(_Task(number, root, file, row.id if row else None))
        out_of_reach = [entry.path for entry in skipped if entry.unreachable]
        for key in [key for key in have if key[0] == number and _below(key[1], out_of_reach)]:
            del have[key]
            report.kept += 1
    return tasks, [row.id for row in have.values()]


def _below(path: str, places: Sequence[str]) -> bool:
    """Whether a path is one of these, or lies in one."""
    return any(path == place or path.startswith(f"{place}/") or place == "." for place in places)


def _embed(
    store: Store, tasks: list[_Task], encoder: Encodes, report: Report, progress: Progress, stop: Event
) -> None:
    """Decode, encode and commit shard by shard."""
    rows: list[Row] = []
    vectors: list[NDArray[np.float32]] = []
    replaced: list[int] = []
    closes = time.monotonic() + SHARD_SECONDS

    def commit() -> None:
        if rows or replaced:
            store.commit(
                rows, np.concatenate([np.empty((0, encoder.width), np.float32), *vectors]), drop=replaced
            )
        for finished in (rows, vectors, replaced):
            finished.clear()

    done = 0
    for batch, failures in _batches(tasks, encoder.recipe, encoder.batch):
        for task, reason in failures:
            report.skipped.append((str(task.root), task.found.path, reason))
            if task.replaces is not None:  # it was readable once; its old vector is no longer true
                replaced.append(task.replaces)
                report.dropped += 1
        if batch:
            vectors.append(encoder(np.stack([image.pixels for _, image in batch])))
            fresh = iter(store.new_ids(sum(task.replaces is None for task, _ in batch)))
            for task, image in batch:
                rows.append(_row(task, image, next(fresh) if task.replaces is None else task.replaces))
                if task.replaces is None:
                    report.added += 1
                else:
                    replaced.append(task.replaces)
                    report.changed += 1
        done += len(batch) + len(failures)
        progress(done, len(tasks), f"{len(report.skipped)} skipped" if report.skipped else "")
        if len(rows) >= SHARD_ROWS or time.monotonic() >= closes or stop.is_set():
            commit()
            closes = time.monotonic() + SHARD_SECONDS
        if stop.is_set():
            raise KeyboardInterrupt
    commit()


def _row(task: _Task, image: _Decoded, id: int) -> Row:
    return Row(
        id=id,
        source=task.source,
        image_path=task.found.path,
        size=task.found.size,
        mtime_ns=task.found.mtime_ns,
        content_hash=image.content_hash,
        width=image.width,
        height=image.height,
    )


_Batch = tuple[list[tuple[_Task, _Decoded]], list[tuple[_Task, str]]]


def _batches(tasks: list[_Task], recipe: Recipe, size: int) -> Iterator[_Batch]:
    """Full batches of decoded images in the order of the tasks, with the failures met on the way.

    Decoding goes on in threads while the caller works on a batch.
    """
    queue: deque[tuple[_Task, Future[_Decoded]]] = deque()
    waiting = iter(tasks)
    good: list[tuple[_Task, _Decoded]] = []
    bad: list[tuple[_Task, str]] = []
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="decode") as pool:
        try:
            while True:
                for task in islice(waiting, size * _LOOKAHEAD - len(queue)):
                    queue.append((task, pool.submit(_decode, task, recipe)))
                if not queue:
                    break
                task, future = queue.popleft()
                try:
                    good.append((task, future.result()))
                except ImageError as exc:
                    bad.append((task, str(exc)))
                if len(good) == size or len(bad) == size:
                    yield good, bad
                    good, bad = [], []
            if good or bad:
                yield good, bad
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(task: _Task, recipe: Recipe) -> _Decoded:
    data = read(task.root, task.found.path)
    picture = decode(data, enough=recipe.enough)
    content_hash = blake3.blake3(data).hexdigest()
    return _Decoded(recipe.apply(picture.image), content_hash, picture.width, picture.height)

"""Files -> vectors, in this process: decoding in threads runs ahead of the model, batches form after bad files dropped out.

Takes tasks, gives what became of them in the same order. Knows no store.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import blake3
import numpy as np
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.embed.known import prefix
from simclr.embed.tasks import Done, Embedded, Failed, Known, Seconds, Task
from simclr.embed.threads import Job, Threads
from simclr.errors import ImageError, TooLarge, reason
from simclr.images import PIXEL_LIMIT, decode
from simclr.runtime import Encodes
from simclr.sources import read_place

AHEAD = 4
"""Batches decoded ahead of the model."""


@dataclass(frozen=True)
class Limits:
    """What one file may take."""

    pixels: int = PIXEL_LIMIT
    seconds: float = 30.0
    """To be read and decoded."""


class NoImage(ImageError):
    """Bytes that were read, and cannot be decoded."""


class Result(NamedTuple):
    """What a thread has made of a file."""

    what: Embedded | Known
    pixels: NDArray[np.uint8] | None
    """(size, size, 3); None where the content is known."""
    seconds: Seconds


class Decoding:
    """Tasks -> pixels in threads, by the recipe of an encoder and within limits."""

    def __init__(
        self, encoder: Encodes, limits: Limits, *, threads: int, is_known: Callable[[bytes], bool]
    ) -> None:
        self._recipe, self._limits, self._is_known = encoder.recipe, limits, is_known
        self.cores = Cores(shared=encoder.backend == "ort-cpu")
        self.threads: Threads[Task, Result] = Threads(self._work, count=threads, seconds=limits.seconds)

    def close(self) -> None:
        """Nothing waits for the threads; they end once they have nothing to do."""
        self.cores.for_decoding()
        self.threads.close()

    def _work(self, task: Task) -> Result:
        try:
            return self._decode(task)
        except ImageError:
            raise
        except Exception as exc:  # whatever one file does, the others go on
            raise ImageError(f"cannot be decoded: {type(exc).__name__}: {reason(exc)}") from exc

    def _decode(self, task: Task) -> Result:
        started = time.perf_counter()
        data = read_place(task.place)
        digest = blake3.blake3(data).digest()
        read = time.perf_counter()
        if not task.fresh and self._is_known(digest):
            return Result(Known(task.number, digest, len(data)), None, Seconds(reading=read - started))
        with self.threads.own_time_stands_still():
            self.cores.wait()
        began = time.perf_counter()
        try:
            picture = decode(
                data,
                enough=self._recipe.enough,
                pixel_limit=self._limits.pixels,
                one_large=self.threads.turn,
            )
        except TooLarge as exc:
            raise NoImage(f"{exc}; raise it with --max-pixels") from exc
        except ImageError as exc:
            raise NoImage(str(exc)) from exc
        pixels = self._recipe.apply(picture.image)
        seconds = Seconds(reading=read - started, decoding=time.perf_counter() - began)
        return Result(
            Embedded(task.number, digest, len(data), picture.width, picture.height), pixels, seconds
        )


class Cores:
    """Where model and decoders compute on the same cores, they take turns; files are read at any time.

    Two threads of a model that wait for one another lose twice what a decoder takes from one of them.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._free = threading.Event()
        self._free.set()

    def wait(self) -> None:
        self._free.wait()

    def for_decoding(self) -> None:
        self._free.set()

    def for_the_model(self) -> None:
        if self._shared:
            self._free.clear()


FLUSH = None
"""In a stream of jobs: encode what is there, more may come late."""


def encode(
    jobs: Iterable[tuple[Task, Job[Result]] | None],
    decoding: Decoding,
    encoder: Encodes,
    digests: set[int],
) -> Iterator[Done]:
    """Jobs in order -> what became of them, a batch at a time. The prefixes of embedded contents go into `digests`."""
    on_the_way: deque[Done] = deque()
    waited = 0.0

    def batches() -> Iterator[NDArray[np.uint8]]:
        nonlocal waited
        asked = time.perf_counter()
        decoding.cores.for_decoding()
        for done, pixels in _batches(jobs, decoding, encoder, drain=lambda: bool(on_the_way)):
            on_the_way.append(done)
            waited += time.perf_counter() - asked
            decoding.cores.for_the_model()
            yield pixels
            decoding.cores.for_decoding()
            asked = time.perf_counter()

    stream = encoder.stream(batches())
    while True:
        asked, waited = time.perf_counter(), 0.0
        vectors = next(stream, None)
        if vectors is None:
            return
        decoding.cores.for_decoding()
        done = on_the_way.popleft()
        model = time.perf_counter() - asked - waited
        done.vectors = vectors
        done.seconds = done.seconds.plus(Seconds(waiting=waited, model=model))
        digests.update(prefix(image.digest) for image in done.images)
        if len(done):
            yield done


def _batches(
    jobs: Iterable[tuple[Task, Job[Result]] | None],
    decoding: Decoding,
    encoder: Encodes,
    *,
    drain: Callable[[], bool],
) -> Iterator[tuple[Done, NDArray[np.uint8]]]:
    """Full batches of pixels, with what else became of the jobs on the way; partial ones at a FLUSH and at the end.

    After a FLUSH comes an empty batch if `drain` says that the engine still holds one back, which it gives then.
    """
    size = encoder.recipe.size
    nothing = np.empty((0, encoder.width), np.float32)
    done = Done([], nothing)
    pixels: list[NDArray[np.uint8]] = []

    def close() -> tuple[Done, NDArray[np.uint8]]:
        nonlocal done, pixels
        whole = done, np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
        done, pixels = Done([], nothing), []
        return whole

    for item in jobs:
        if item is FLUSH:
            if len(done):
                yield close()
            if drain():
                yield close()
            continue
        task, job = item
        try:
            result = decoding.threads.result(job)
        except ImageError as exc:
            done.failed.append(Failed(task.number, str(exc), isinstance(exc, NoImage)))
        else:
            done.seconds = done.seconds.plus(result.seconds)
            if isinstance(result.what, Known):
                done.known.append(result.what)
            else:
                assert result.pixels is not None
                done.images.append(result.what)
                pixels.append(result.pixels)
        if len(pixels) == encoder.batch or len(done) - len(pixels) == encoder.batch:
            yield close()
    if len(done):
        yield close()


HUNG = 3
"""Threads that may hang in a process; it has to end then, which nothing less than its end does to them."""


class Lane:
    """An encoder with its decode threads: what embeds in this process."""

    def __init__(self, encoder: Encodes, *, limits: Limits | None = None, threads: int | None = None) -> None:
        self.encoder = encoder
        self.identity, self.width = encoder.identity, encoder.width
        self.memory = 0
        """Bytes in other processes."""
        self._limits = limits or Limits()
        self._threads = threads or available_cpus()

    def run(self, tasks: Iterable[Task], known: NDArray[np.uint64]) -> Iterator[Done]:
        """What became of the tasks, in their order. `known`: prefixes of contents that need not be embedded again.

        Raises ImageError where three files hang.
        """
        digests = set(known.tolist())
        decoding = Decoding(
            self.encoder,
            self._limits,
            threads=self._threads,
            is_known=lambda digest: prefix(digest) in digests,
        )
        try:
            jobs = _ahead(tasks, decoding, AHEAD * self.encoder.batch)
            for done in encode(jobs, decoding, self.encoder, digests):
                yield done
                if decoding.threads.left_behind >= HUNG:
                    raise ImageError(
                        f"{HUNG} files took longer than {self._limits.seconds:g} s each, and hang still. Embed them in "
                        "processes of their own, as `simclr embed` does, which can be ended."
                    )
        finally:
            decoding.close()


def _ahead(tasks: Iterable[Task], decoding: Decoding, count: int) -> Iterator[tuple[Task, Job[Result]]]:
    """Submit that many tasks before the first result is asked for."""
    jobs: deque[tuple[Task, Job[Result]]] = deque()
    for task in tasks:
        jobs.append((task, decoding.threads.submit(task)))
        if len(jobs) >= count:
            yield jobs.popleft()
    yield from jobs

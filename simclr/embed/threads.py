"""Files are read, decoded and resized in threads, each within its time. A thread that hangs is left behind.

Gives results in the order in which files were submitted. Python's own pool would wait for a hung thread at its end.
`Turn` lets one thread at a time do what takes much memory; waiting for it is nobody's own time.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from simclr.errors import ImageError

_LOOK_AGAIN = 0.2
"""Seconds."""

T = TypeVar("T")
Value = TypeVar("Value")


class Job(Generic[Value]):
    """One file on its way."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.started: float | None = None
        """When its time began to count; None while it waits for a thread, or for its turn."""
        self.value: Value | None = None
        self.error: BaseException | None = None
        self.given_up = False


class Threads(Generic[T, Value]):
    """`work` done by a fixed number of threads that never keep a process alive."""

    def __init__(self, work: Callable[[T], Value], *, count: int, seconds: float) -> None:
        """`seconds`: what one call may take; the clock starts when a thread takes it up."""
        self._work = work
        self._seconds = seconds
        self._own = threading.local()
        self.turn = Turn(self._own)
        self._waiting: queue.SimpleQueue[tuple[T, Job[Value]] | None] = queue.SimpleQueue()
        self._count = count
        self.left_behind = 0
        """Threads that hang."""
        for _ in range(count):
            self._start()

    def submit(self, item: T) -> Job[Value]:
        job: Job[Value] = Job()
        self._waiting.put((item, job))
        return job

    def result(self, job: Job[Value]) -> Value:
        """What `work` gave or raised. Raises ImageError where it takes too long; its thread is replaced then."""
        while not job.done.wait(max(0.0, min(self._left(job), _LOOK_AGAIN))):
            if (holder := self.turn.holder) is not None and self._left(holder) <= 0:
                self.turn.pass_on(holder)  # this job, or one before it, may wait for it
            if job.started is not None and self._left(job) <= 0:
                job.given_up = True
                self.left_behind += 1
                self.turn.pass_on(job)
                self._start()
                raise ImageError(f"takes longer than {self._seconds:g} s to read and decode")
        if job.error is not None:
            raise job.error
        assert job.value is not None
        return job.value

    @contextmanager
    def own_time_stands_still(self) -> Iterator[None]:
        """For `work` that waits for what is not its file's fault."""
        job: Job[Value] = self._own.job
        spent = _stop(job)
        yield
        job.started = time.monotonic() - spent

    def close(self) -> None:
        """Threads end once they have nothing to do; nothing waits for them."""
        for _ in range(self._count):
            self._waiting.put(None)

    def _left(self, job: Job[Value]) -> float:
        started = job.started
        return self._seconds if started is None else started + self._seconds - time.monotonic()

    def _start(self) -> None:
        threading.Thread(target=self._run, name="decode", daemon=True).start()

    def _run(self) -> None:
        while (taken := self._waiting.get()) is not None:
            item, job = taken
            self._own.job = job
            job.started = time.monotonic()
            try:
                job.value = self._work(item)
            except BaseException as exc:  # raised again where the result is asked for
                job.error = exc
            job.done.set()
            if job.given_up:  # another thread has taken this one's place
                return


class Turn:
    """A lock whose holder's time starts when it gets it, and which passes on where its holder is left behind."""

    def __init__(self, own: threading.local) -> None:
        self._own = own
        """Its `job` is that of the thread that asks."""
        self._lock = threading.Lock()
        self.holder: Job[Any] | None = None

    def __enter__(self) -> None:
        job: Job[Any] = self._own.job
        spent = _stop(job)
        while not (lock := self._lock).acquire(timeout=_LOOK_AGAIN):  # another lock may have taken its place
            pass
        self._own.lock, self.holder = lock, job
        job.started = time.monotonic() - spent

    def __exit__(self, *words: object) -> None:
        if self._own.lock is self._lock:
            self.holder = None
        self._own.lock.release()

    def pass_on(self, job: Job[Any]) -> None:
        """Its thread will never give the lock back: from now on it is another one."""
        if self.holder is job:
            self.holder, self._lock = None, threading.Lock()


def _stop(job: Job[Any]) -> float:
    """Stop a job's clock; seconds that it has run."""
    spent = 0.0 if job.started is None else time.monotonic() - job.started
    job.started = None
    return spent

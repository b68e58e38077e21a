"""Concurrent requests -> one call for all that wait. Bounded: what is too much is refused at once.

One thread works; while it does, others gather, and the next call takes them together. So nobody waits for a batch to
fill: alone, a request is answered as fast as without this.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from simclr.serve.limits import busy

T = TypeVar("T")
Value = TypeVar("Value")


class _Job(NamedTuple, Generic[T, Value]):
    item: T
    answer: "asyncio.Future[Value]"
    loop: asyncio.AbstractEventLoop


class Batches(Generic[T, Value]):
    """Items from coroutines, answered by `work` in a thread of its own, up to `most` at once."""

    def __init__(
        self,
        work: Callable[[list[T]], Sequence[Value | Exception]],
        *,
        name: str,
        most: int,
        waiting: int,
        worked: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`work` gives for each item its value, or what to raise. `worked` hears how many were answered together."""
        self._work, self._most, self._bound, self._worked = work, most, waiting, worked
        self._waiting: deque[_Job[T, Value]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def ask(self, item: T) -> Value:
        """Raises what `work` gave for it, or Refused where too many wait."""
        loop = asyncio.get_running_loop()
        job: _Job[T, Value] = _Job(item, loop.create_future(), loop)
        with self._changed:
            if self._closed or len(self._waiting) >= self._bound:
                raise busy()
            self._waiting.append(job)
            self._changed.notify()
        return await job.answer

    def close(self) -> None:
        """Answer what waits, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            try:
                values: Sequence[Value | Exception] = self._work([job.item for job in jobs])
            except Exception as exc:  # each of them is told
                values = [exc] * len(jobs)
            self._worked(len(jobs))
            jobs[0].loop.call_soon_threadsafe(_answer, jobs, values)

    def _next(self) -> list[_Job[T, Value]]:
        """Those that wait, without the ones whose client has gone; none once it is closed."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                count = min(self._most, len(self._waiting))
                jobs = [
                    job for job in (self._waiting.popleft() for _ in range(count)) if not job.answer.done()
                ]
                if jobs or (self._closed and not self._waiting):
                    return jobs


def _answer(jobs: Sequence[_Job[T, Value]], values: Sequence[Value | Exception]) -> None:
    for job, value in zip(jobs, values, strict=True):
        if job.answer.done():  # given up meanwhile
            continue
        if isinstance(value, Exception):
            job.answer.set_exception(value)
        else:
            job.answer.set_result(value)

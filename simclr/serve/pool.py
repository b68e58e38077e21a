"""Work that blocks, such as reading and decoding a file -> threads, a few at a time, each call within its time.

A thread that hangs is left behind: it never keeps the server from going on, nor from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from simclr.serve.limits import Refused, busy

_HUNG = 32
"""Threads that may hang before nothing is begun any more: each may hold an image."""

Value = TypeVar("Value")


class Pool:
    """Calls from the coroutines of one event loop."""

    def __init__(self, count: int, *, waiting: int, seconds: float) -> None:
        """`count`: calls at once. `waiting`: others that may wait. `seconds`: of one call, once it has begun."""
        self._slots = asyncio.Semaphore(count)
        self._most = count + waiting
        self._seconds = seconds
        self.asked = 0
        """Calls that run or wait."""
        self.hung = 0

    async def run(self, work: Callable[[], Value]) -> Value:
        """What `work` gives or raises. Raises Refused where too many wait (503) or it takes too long (504)."""
        if self.asked >= self._most or self.hung >= _HUNG:
            raise busy()
        self.asked += 1
        try:
            async with self._slots:
                return await self._in_thread(work)
        finally:
            self.asked -= 1

    async def _in_thread(self, work: Callable[[], Value]) -> Value:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Value] = loop.create_future()

        def deliver(value: Value | None, error: BaseException | None) -> None:
            if answer.cancelled():
                self.hung -= 1
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]

        def call() -> None:
            value, error = None, None
            try:
                value = work()
            except BaseException as exc:  # raised again where the answer is awaited
                error = exc
            with suppress(RuntimeError):  # the server has ended meanwhile
                loop.call_soon_threadsafe(deliver, value, error)

        threading.Thread(target=call, name="decode", daemon=True).start()
        try:
            async with asyncio.timeout(self._seconds):
                return await answer
        except TimeoutError:
            raise Refused(504, f"takes longer than {self._seconds:g} s to read and decode.") from None
        finally:
            self.hung += answer.cancelled()  # by its time, or because the client has gone

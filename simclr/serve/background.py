"""What takes long and is asked for again: computed once for each state of the collection, in a thread, and kept."""

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from simclr.errors import SimclrError
from simclr.serve.collection import Served
from simclr.serve.limits import Refused
from simclr.serve.models import Pending

log = logging.getLogger("simclr.serve")

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it, of how much."""

Value = TypeVar("Value")


class Once(Generic[Value]):
    """`compute` is called in a thread when the value of a state is first asked for; never twice at once."""

    def __init__(self, compute: Callable[[Served, Progress], Value], *, turn: threading.Lock) -> None:
        """`turn`: held while it computes; several that share one take turns."""
        self._compute, self._turn = compute, turn
        self._lock = threading.Lock()
        self._generation = -1
        self._value: Value | None = None
        self._problem: Exception | None = None
        self._pending = Pending(doing="waiting for its turn", done=0, total=0)
        self._running = False

    def ask(self, served: Served) -> Value | Pending:
        """The value, or how far it is. Raises Refused (422) where it cannot be computed, and says why."""
        with self._lock:
            if self._generation == served.generation:
                if self._problem is not None:
                    raise _refused(self._problem)
                if self._value is not None:
                    return self._value
            if not self._running:
                self._running = True
                self._generation, self._value, self._problem = served.generation, None, None
                self._pending = Pending(doing="waiting for its turn", done=0, total=0)
                threading.Thread(target=self._run, args=(served,), name="background", daemon=True).start()
            return self._pending

    def _run(self, served: Served) -> None:
        value: Value | None = None
        problem: Exception | None = None
        try:
            with self._turn:
                value = self._compute(served, self._progress)
        except Exception as exc:  # told to all that ask
            problem = exc
            if not isinstance(exc, SimclrError):
                log.exception("in the background")
        with self._lock:
            self._value, self._problem, self._running = value, problem, False

    def _progress(self, doing: str, done: int, total: int) -> None:
        self._pending = Pending(doing=doing, done=done, total=total)


def _refused(problem: Exception) -> Refused:
    if isinstance(problem, SimclrError):
        return Refused(422, str(problem))
    return Refused(500, f"something went wrong here ({type(problem).__name__}).")

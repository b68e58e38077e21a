"""Ctrl-C and SIGTERM end a stage at its next safe point instead of anywhere."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

SAME_PRESS = 1.0
"""Seconds in which a second signal is the first one arriving again: terminals and launchers often both send it."""


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Gives an event that the first Ctrl-C or SIGTERM sets; another one a moment later interrupts at once.

    The stage looks at the event where its files are whole, and raises KeyboardInterrupt. Outside the main
    thread, which alone gets signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    first = 0.0

    def on_signal(number: int, frame: object) -> None:
        nonlocal first
        if not stop.is_set():
            first = time.monotonic()
            stop.set()
        elif time.monotonic() - first > SAME_PRESS:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

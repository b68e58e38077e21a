"""Ctrl-C and SIGTERM end a stage at its next safe point instead of anywhere."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Gives an event that the first Ctrl-C or SIGTERM sets; a second one interrupts at once.

    The stage looks at the event where its files are whole, and raises KeyboardInterrupt. Outside the main
    thread, which alone gets signals, the event is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

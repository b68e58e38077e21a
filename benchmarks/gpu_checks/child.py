"""A check in a process of its own: what breaks it, be it a lost GPU or a signal, ends it alone. No torch in the caller's."""

import importlib
import multiprocessing
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpu_checks.rows import Place, Row, Skipped

HERE = Path(__file__).resolve().parents[2]


def run_check(name: str, place: Place, *, minutes: float) -> Iterator[Row | Skipped | str]:
    """Rows as the check finds them; at its end the reason where it has none, or a line on how it failed."""
    yield from _told(_check, name, place, minutes=minutes)


def describe(place: Place) -> dict[str, str] | str:
    """The machine, or a line that says why it cannot be used."""
    *_, last = _told(_describe, "machine", place, minutes=5)
    found: dict[str, str] | str = last
    return found


def _told(target: Any, name: str, place: Place, *, minutes: float) -> Iterator[Any]:
    context = multiprocessing.get_context(
        "forkserver"
    )  # started without a GPU's state, which no fork survives
    context.set_forkserver_preload(["simclr.pretrain"])  # torch and timm once, not once a check
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(theirs, name, place))
    process.start()
    theirs.close()
    ends = time.monotonic() + 60 * minutes
    try:
        while ours.poll(max(0.0, ends - time.monotonic())):
            told = ours.recv()
            if told is None:
                return
            yield told
        yield f"took more than {minutes:g} minutes"
    except EOFError:
        process.join()
        yield f"its process ended with code {process.exitcode}"
    finally:
        process.join(timeout=10)
        if process.is_alive():
            process.kill()
            process.join()


def _check(pipe: Connection, name: str, place: Place) -> None:
    try:
        for row in importlib.import_module(f"gpu_checks.{name}").check(place):
            pipe.send(row)
    except Skipped as skipped:
        pipe.send(skipped)
    except Exception as exc:  # whatever it is belongs into the report
        pipe.send(_line(exc))
    pipe.send(None)


def _describe(pipe: Connection, name: str, place: Place) -> None:
    from gpu_checks import machine  # here, since it needs torch

    try:
        pipe.send(machine.describe(place))
    except Exception as exc:
        pipe.send(" ".join(str(exc).split()))
    pipe.send(None)


def _line(exc: Exception) -> str:
    """Kind, message and the last line of this checkout that was on the way."""
    traceback.print_exception(exc)
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if str(HERE) in frame.filename]
    own = [frame for frame in frames if ".venv" not in frame.filename]
    place = f" ({Path(own[-1].filename).relative_to(HERE)}:{own[-1].lineno})" if own else ""
    said = (str(exc).strip().splitlines() or [""])[0]
    return f"{type(exc).__name__}: {said}{place}"

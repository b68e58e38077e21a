"""How far a command is: a bar with rate and time left on a terminal, plain lines elsewhere. Writes to stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Update = Callable[[int, int, str], None]
"""Takes images done, images in all, and a few words."""

_LINE_SECONDS = 10.0
"""Between two plain lines."""


@contextmanager
def show(what: str) -> Iterator[Update]:
    """Show progress of `what` for as long as the block runs."""
    if sys.stderr.isatty():
        with _bar(what) as update:
            yield update
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Update]:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.fields[words]}"),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=False) as shown:
        task = shown.add_task(what, total=None, words="", rate="")

        def update(done: int, total: int, words: str) -> None:
            speed = shown.tasks[0].speed
            rate = f"{speed:,.1f} images/s" if speed else ""
            shown.update(task, completed=done, total=total, words=words, rate=rate)

        yield update


def _lines(what: str) -> Update:
    started = last = time.monotonic()
    first: int | None = None

    def update(done: int, total: int, words: str) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        if done < total and now - last < _LINE_SECONDS:
            return
        last = now
        rate = (done - first) / (now - started) if now > started else 0.0
        speed = f", {rate:,.1f} images/s" if rate else ""  # unknown where all were done at once
        left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
        print(f"{what}: {done:,} of {total:,} images{speed}{left}  {words}".rstrip(), file=sys.stderr)

    return update

"""Items of a dataset, made in worker processes and given in order. Draws nothing from anybody's random numbers."""

import signal
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from simclr.cpus import available_cpus
from simclr.errors import SimclrError, reason

T = TypeVar("T")

SLICE = 64
"""Images that one worker handles at a time."""
_MOST = 16
"""Workers by default, on machines with more cores."""


def default_workers() -> int:
    return min(_MOST, available_cpus())


def in_workers(dataset: Dataset[T], items: Sequence[Any], *, workers: int) -> Generator[T, None, None]:
    """`dataset[item]` for each item, as it is; `close` ends the workers. 0 workers: in this process.

    Raises SimclrError if a worker dies.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=items,
        num_workers=min(workers, len(items)),
        prefetch_factor=2 if min(workers, len(items)) else None,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=torch.Generator(),  # else each start draws a seed from the global one
    )
    try:
        yield from loader
    except RuntimeError as exc:
        if "DataLoader worker" not in str(exc):
            raise
        raise SimclrError(
            f"a process that decodes images died ({reason(exc)}). If memory ran out, use fewer with --set workers=1; "
            "a stopped run goes on with --resume."
        ) from exc


def slices(count: int, size: int = SLICE) -> list[tuple[int, int]]:
    """(start, stop) of the pieces of `count` images."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _as_it_is(item: T) -> T:
    return item


def _leave_signals_to_the_parent(_: int) -> None:
    """Terminals and schedulers signal workers, too; the parent alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

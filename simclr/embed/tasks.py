"""What embedding is asked, and what it gives back: tasks, what became of them, and where the time went. Embeds nothing itself.

These go between processes and machines, pickled.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from simclr.sources import Place


class Task(NamedTuple):
    number: int
    place: Place
    fresh: bool = False
    """Whether it is to be embedded even if its content is known."""


class Embedded(NamedTuple):
    number: int
    digest: bytes
    """BLAKE3 of the bytes of the file."""
    size: int
    """Of the file, in bytes."""
    width: int
    """Of the upright image, in pixels."""
    height: int


class Known(NamedTuple):
    """A file whose content seems to be in the store, or has been given before; it was not decoded."""

    number: int
    digest: bytes
    size: int


class Failed(NamedTuple):
    number: int
    reason: str
    is_no_image: bool = False
    """Whether its bytes were read, and are no image: trying again would not help."""


class Seconds(NamedTuple):
    """Where time went."""

    waiting: float = 0.0
    """The model, for decoded images."""
    model: float = 0.0
    reading: float = 0.0
    """Summed over threads, as is decoding."""
    decoding: float = 0.0

    def plus(self, other: "Seconds") -> "Seconds":
        return Seconds(*(a + b for a, b in zip(self, other, strict=True)))


NO_TIME = Seconds()


@dataclass
class Done:
    """What became of some tasks."""

    images: list[Embedded]
    vectors: NDArray[np.float32]
    """(len(images), width), unit length."""
    known: list[Known] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    seconds: Seconds = NO_TIME
    memory: int = 0
    """Bytes that the process which did it has held at most; 0 where it is this one."""

    def __len__(self) -> int:
        return len(self.images) + len(self.known) + len(self.failed)


def nothing() -> Done:
    return Done([], np.empty((0, 0), np.float32))


def bound(spent: Seconds) -> str:
    """What decided the rate: the model, unless it waited for more than a fifth of the time."""
    total = spent.waiting + spent.model
    if not total:
        return ""
    if spent.waiting <= 0.2 * total:
        return "the model"
    return "reading" if spent.reading > spent.decoding else "decoding"


class Embeds(Protocol):
    """What embedding needs: `Lane` in this process, `Workers` in others, `Cluster` on other machines."""

    identity: str
    width: int

    @property
    def memory(self) -> int:
        """Bytes of main memory that other processes have held for it at most."""

    def run(self, tasks: Iterable[Task], known: NDArray[np.uint64]) -> Iterator[Done]: ...

"""What a step costs: seconds, those of them without data, and memory.

On a GPU the host runs ahead, so its own clock says nothing about a step: moments are events on the stream there, read
only when the step's numbers have been read back. Nothing here waits for a GPU.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch

from simclr.free_memory import resident_peak

_BOUND = 0.3
"""Share of the time from which waiting for images is worth a word."""
_WINDOW_STEPS, _WINDOW_SECONDS = 50, 60.0
"""What a judgement needs of both: prefetched batches last some steps, and shorter runs are not worth tuning."""


class StepTime(NamedTuple):
    seconds: float
    """From where the device could have begun the step to its end; saving and drawing between two steps are not in it."""
    waited: float
    """Of these, until its images were there: the device had nothing to do."""


class Moment(Protocol):
    """A point in time, as torch.cuda.Event is one."""

    def elapsed_time(self, later: Any, /) -> float:
        """Milliseconds."""


class Clock:
    """`with clock.waiting(): images = next(loader)`, work, `clock.done()`; later `clock.pop()` for each finished step.

    Three moments a step: asked for images, images there, work done. On a GPU a moment is reached when all that was queued
    before it is done. So asking for images early, while the device still works, counts from the end of that work, and
    images that are there by then have not been waited for.
    """

    def __init__(self, device: torch.device, *, moment: Callable[[], Moment] | None = None) -> None:
        """`moment` gives the present one; by default an event on the device's stream, or the host's clock."""
        self._present = moment or (partial(_event_on, device) if device.type == "cuda" else _HostMoment)
        self._asked: Moment | None = None
        self._there: Moment | None = None
        self._steps: deque[tuple[Moment, Moment, Moment]] = deque()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._asked = self._present()
        yield
        self._there = self._present()

    def done(self) -> None:
        """The work of the step is queued, or done."""
        assert self._asked is not None and self._there is not None
        self._steps.append((self._asked, self._there, self._present()))

    def pop(self) -> StepTime:
        """Of the oldest step not yet given. Only once something that its work computed has been read back."""
        asked, there, end = self._steps.popleft()
        return StepTime(asked.elapsed_time(end) / 1000, asked.elapsed_time(there) / 1000)


class _HostMoment:
    def __init__(self) -> None:
        self.seconds = time.perf_counter()

    def elapsed_time(self, later: "_HostMoment") -> float:
        return (later.seconds - self.seconds) * 1000


def _event_on(device: torch.device) -> Moment:
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


@dataclass
class InputWatch:
    """Adds up steps; speaks once when images have been waited for during much of the time."""

    workers: int
    """Processes that decode now."""
    cpus: int
    """Cores this process may use."""
    in_ram: bool
    """Decoded images are kept in memory already."""
    steps: int = -1
    """Of the window; the first step of a run waits for the workers to start and is left out."""
    seconds: float = 0.0
    waited: float = 0.0
    said: bool = False

    def look(self, step: StepTime) -> str | None:
        """A sentence at the end of the first window with too much waiting, else None."""
        self.steps += 1
        if self.steps == 0:
            return None
        self.seconds, self.waited = self.seconds + step.seconds, self.waited + step.waited
        if self.steps < _WINDOW_STEPS or self.seconds < _WINDOW_SECONDS:
            return None
        share = self.waited / self.seconds
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        if self.said or share <= _BOUND:
            return None
        self.said = True
        return input_bound(share, workers=self.workers, cpus=self.cpus, in_ram=self.in_ram)


def input_bound(share: float, *, workers: int, cpus: int, in_ram: bool) -> str:
    """The sentence, with what is left to turn. `share`: of the time that is spent waiting, 0 to 1."""
    turns = [] if in_ram else ["--cache ram"]
    if workers < cpus:
        turns.append(f"--set workers={cpus} (now {workers})")
    advice = " or ".join([", ".join(turns), "smaller files"] if turns else ["smaller files"])
    return f"input-bound: {share:.0%} of the time is spent waiting for images; try {advice}"


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has held at most: on a GPU in tensors there, else in main memory (resident)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_peak()

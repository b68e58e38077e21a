"""The process that embeds: tasks come in on stdin, what became of them goes out on stdout, both pickled.

A process of its own, so that a decoder that hangs or crashes takes nothing with it, and one for each GPU. Started and
watched by `workers.py`, which alone speaks to it.
"""

import os
import pickle
import queue
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from simclr.embed.known import prefix
from simclr.embed.lane import HUNG, Decoding, Limits, encode
from simclr.errors import SimclrError
from simclr.free_memory import resident_peak
from simclr.runtime import Encoder

ALIVE_SECONDS = 1.0


@dataclass(frozen=True)
class Job:
    """What a worker is told first."""

    model: Path
    backend: str
    precision: str
    threads: int
    """That decode; the CPU backend computes with as many."""
    limits: Limits
    known: bytes
    """Prefixes of contents that need not be embedded again, as uint64."""


@dataclass(frozen=True)
class Ready:
    backend: str
    choice: str
    """One line: backend and precision, and what kept better ones out."""
    batch: int


@dataclass(frozen=True)
class Alive:
    """Not stuck."""

    memory: int
    """Bytes that the process has held at most."""


class Tired:
    """Too many files hang: this process ends, tasks that were not answered are for the next one."""


@dataclass(frozen=True)
class Broken:
    """An error of ours, which another try would meet again."""

    traceback: str


def main() -> None:
    # libraries print where they like: to stderr
    tasks_in, results_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    outbox = _Outbox(results_out)
    try:
        _work(tasks_in, outbox)
    except SimclrError as exc:
        outbox.send(exc)
    except BaseException:
        outbox.send(Broken(traceback.format_exc()))
    os._exit(0)  # nothing waits for threads that hang


class _Outbox:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        with self._lock:
            try:
                pickle.dump(message, self._stream, protocol=pickle.HIGHEST_PROTOCOL)
                self._stream.flush()
            except BrokenPipeError:  # whoever asked is gone
                os._exit(1)


def _work(tasks_in: BinaryIO, outbox: _Outbox) -> None:
    job: Job = pickle.load(tasks_in)
    encoder = Encoder.open(
        job.model, backend=job.backend, precision=job.precision, threads=job.threads, note=outbox.send
    )
    outbox.send(Ready(encoder.backend, encoder.choice, encoder.batch))
    digests = set(np.frombuffer(job.known, np.uint64).tolist())
    decoding = Decoding(
        encoder, job.limits, threads=job.threads, is_known=lambda digest: prefix(digest) in digests
    )
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(tasks_in, decoding, jobs), daemon=True).start()
    threading.Thread(target=_beat, args=(outbox,), daemon=True).start()
    for done in encode(_all_of(jobs), decoding, encoder, digests):
        done.memory = resident_peak()
        outbox.send(done)
        if decoding.threads.left_behind >= HUNG:
            outbox.send(Tired())
            return


def _receive(tasks_in: BinaryIO, decoding: Decoding, jobs: queue.SimpleQueue[Any]) -> None:
    """Decoding begins when a task comes in."""
    while True:
        try:
            message = pickle.load(tasks_in)
        except (EOFError, OSError):  # whoever asked is gone
            os._exit(1)
        if isinstance(message, list):
            for task in message:
                jobs.put((task, decoding.threads.submit(task)))
        else:
            jobs.put(message)


def _all_of(jobs: queue.SimpleQueue[Any]) -> Iterator[Any]:
    """Until this process is ended."""
    while True:
        yield jobs.get()


def _beat(outbox: _Outbox) -> None:
    """A decoder that holds Python's lock stops this, too: so silence means stuck."""
    pause = threading.Event()
    while True:
        pause.wait(ALIVE_SECONDS)
        outbox.send(Alive(resident_peak()))

"""What a machine of a Ray cluster does for `cluster.py`: parts of the tasks come in, what became of them goes out."""

import contextlib
import os
import pickle
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

import simclr
from simclr.artifacts import write_atomically
from simclr.cache_folder import own_folder
from simclr.embed.lane import Limits
from simclr.embed.tasks import Done, nothing
from simclr.embed.workers import Workers
from simclr.errors import ConfigError, SimclrError, reason


@dataclass(frozen=True)
class Orders:
    """What an actor is told."""

    version: str
    files: dict[str, bytes]
    """Of the export folder: machines need not share a disk."""
    backend: str
    precision: str
    limits: Limits
    threads: int
    known: bytes
    """Prefixes of contents that need not be embedded again, as uint64."""
    sample: str
    """A file that every machine has to see; empty where they are behind URLs."""


@dataclass(frozen=True)
class Answer:
    """Of one part."""

    done: Done
    notes: tuple[str, ...]
    who: str
    memory: int
    error: SimclrError | None = None
    """That ends the run."""


class Machine:
    """The actor on a machine. Lives until its run ends; errors are answers, since Ray would try again."""

    def __init__(self, held: list[Any]) -> None:
        import ray

        self._notes: list[str] = []
        self._error: SimclrError | None = None
        self._open = contextlib.ExitStack()
        try:
            self._prepare(ray.get(held[0]))
        except SimclrError as exc:
            self._error = exc
        except OSError as exc:
            self._error = SimclrError(
                f"{socket.gethostname()}: {reason(exc)}. Make room there, and run the same command again."
            )

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        done, error = nothing(), self._error
        if error is None:
            try:
                done = _together(self._crew.results(pickle.loads(row["tasks"])))
            except SimclrError as exc:
                error = exc
        notes, self._notes[:] = tuple(self._notes), []
        memory = 0 if error else self._crew.memory
        answer = Answer(done, notes, f"{socket.gethostname()}:{os.getpid()}", memory, error)
        return {"answer": pickle.dumps(answer)}

    def _prepare(self, job: Orders) -> None:
        host = socket.gethostname()
        if job.version != simclr.__version__:
            raise ConfigError(
                f"{host}: has simclr-toolkit {simclr.__version__}, but the command is of {job.version}. Install the same there: pip install simclr-toolkit=={job.version}"
            )
        if job.sample and not Path(job.sample).exists():
            raise ConfigError(
                f"{host}: does not see {job.sample}. Mount the folder there at the same place, or give the images as URLs, such as s3://BUCKET/photos."
            )
        workers = Workers(
            _unpacked(job.files),
            backend=job.backend,
            precision=job.precision,
            limits=job.limits,
            threads=job.threads,
            note=self._notes.append,
        )
        self._crew = self._open.enter_context(workers.crew(np.frombuffer(job.known, np.uint64)))


def _unpacked(files: dict[str, bytes]) -> Path:
    """The export folder in this machine's cache, where it stays: an actor is ended without warning. Raises OSError."""
    digest = blake3(b"".join(blake3(data).digest() for data in files.values())).hexdigest()
    folder = own_folder("models") / digest[:32]
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if not (folder / name).exists():
            write_atomically(folder / name, partial(_write, data))
    return folder


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _together(parts: Iterable[Done]) -> Done:
    """As one."""
    whole = nothing()
    vectors = []
    for part in parts:
        whole.images += part.images
        whole.known += part.known
        whole.failed += part.failed
        whole.seconds = whole.seconds.plus(part.seconds)
        if part.images:
            vectors.append(part.vectors)
    if vectors:
        whole.vectors = np.concatenate(vectors)
    return whole

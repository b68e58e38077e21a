"""Tasks -> what became of them, on the machines of a Ray cluster. Says which parts belong to which machine; Ray Data hands them out and repeats what is lost.

Each machine (each GPU, where there are any) has one actor with the processes of `workers.py`, so a bad file costs there what it costs here: itself.
The store stays here, with the one who asks: 10,000 images a second are 40 MB of vectors of 2048 numbers, and one writer needs neither a folder that all
machines can write to nor ids that they have to agree on.
"""

import contextlib
import logging
import os
import pickle
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import simclr
from simclr.embed.lane import Limits
from simclr.embed.machine import Answer, Machine, Orders
from simclr.embed.tasks import Done, Task, nothing
from simclr.embed.writer import files_to_copy
from simclr.errors import ConfigError, SimclrError, reason
from simclr.runtime.model_files import open_folder
from simclr.sources import is_url

Note = Callable[[str], None]

_ON_CPU, _ON_GPU = 256, 2048
"""Images of a part: seconds of work, so that the pauses between parts do not count, and little is done twice when a machine goes."""
_KNOCK_SECONDS, _ENDING_SECONDS = 10.0, 20.0
_SILENT_SECONDS = 60.0
"""After which it is said that nothing comes."""


class Cluster:
    """An export folder's encoder on the machines of a Ray cluster. What `embed_sources` needs."""

    def __init__(
        self,
        model: str | Path,
        *,
        address: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        limits: Limits | None = None,
        note: Note = lambda line: None,
    ) -> None:
        """`address`: as of `ray.init`; auto is the cluster that this machine belongs to. Raises ArtifactError, ConfigError if Ray is missing.

        Other errors, such as that there is no cluster, come with `run`.
        """
        self.model, info = open_folder(model)
        self.identity, self.width = info.encoder.identity, info.encoder.width
        self._address, self._backend, self._precision = address, backend, precision
        self._limits = limits or Limits()
        self._note = note
        self._ray = _ray()
        self._held: dict[str, int] = {}

    @property
    def memory(self) -> int:
        """Bytes of main memory that the processes on all machines have held at most."""
        return sum(self._held.values())

    def run(self, tasks: Iterable[Task], known: NDArray[np.uint64]) -> Iterator[Done]:
        """What became of the tasks, in any order; of none where a second has passed, so that whoever waits can stop.

        `known`: prefixes of contents that need not be embedded again. Raises ConfigError where there is no cluster, or its machines are not
        able to do it, SimclrError where it fails.
        """
        tasks = iter(tasks)
        first = next(tasks, None)
        if first is None:
            return
        with self._connected():
            cpus, gpus, slots = self._slots()
            size = _ON_GPU if gpus else _ON_CPU
            parts = [{"tasks": pickle.dumps([first, *islice(tasks, size - 1)])}]
            while part := [*islice(tasks, size)]:
                parts.append({"tasks": pickle.dumps(part)})
            job = Orders(
                version=simclr.__version__,
                files={path.name: path.read_bytes() for path in files_to_copy(self.model)},
                backend=self._backend,
                precision=self._precision,
                limits=self._limits,
                threads=cpus,
                known=known.tobytes(),
                sample="" if is_url(first.place.file) else first.place.file,
            )
            yield from self._answers(parts, job, cpus=cpus, gpus=gpus, slots=min(slots, len(parts)))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        ray = self._ray
        # Ray says there which process has died; ours is for results
        with contextlib.redirect_stdout(sys.stderr):
            try:
                if not ray.is_initialized():
                    _knock(self._address)
                    with _silence():
                        ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as exc:  # Ray has no common ancestor for these
                raise ConfigError(
                    f"--ray {self._address}: no cluster there ({reason(exc).rstrip('.')}). Start one with `ray start --head`, and `ray start --address HEAD:6379` on the other machines."
                ) from exc
            yield
            # only after a run that has ended: threads of Ray Data that still ask would end this process, before it has said why
            ray.shutdown()

    def _slots(self) -> tuple[int, int, int]:
        """CPUs and GPUs of an actor, and how many of them there is room for."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
        if gpus and "cpu" not in self._backend:
            cpus = max(1, min(int(node.get("CPU", 1) // node["GPU"]) for node in gpus))
            slots = sum(int(node["GPU"]) for node in gpus)
            self._note(f"cluster: {len(nodes)} machines, {slots} GPUs, a process each with {cpus} CPUs")
            return cpus, 1, slots
        shares = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
        if not shares:
            raise ConfigError(
                f"--ray {self._address}: its {len(nodes)} machines offer no CPUs. Start them with --num-cpus."
            )
        cpus = min(shares)
        slots = sum(share // cpus for share in shares)
        self._note(f"cluster: {len(nodes)} machines, {slots} processes with {cpus} CPUs each")
        return cpus, 0, slots

    def _answers(
        self, parts: list[dict[str, bytes]], job: Orders, *, cpus: int, gpus: int, slots: int
    ) -> Iterator[Done]:
        inbox: queue.SimpleQueue[Answer | Exception | None] = queue.SimpleQueue()
        held = self._ray.put(job)  # here, so that it outlives every machine but this one
        stop = threading.Event()
        collector = threading.Thread(
            target=self._collect,
            args=(parts, held, cpus, gpus, slots, inbox, stop),
            daemon=True,
        )
        collector.start()
        try:
            yield from self._heard(inbox)
        finally:
            stop.set()
            collector.join(_ENDING_SECONDS)  # what Ray Data has running ends with its iterator

    def _heard(self, inbox: "queue.SimpleQueue[Answer | Exception | None]") -> Iterator[Done]:
        said: set[str] = set()
        heard = time.monotonic()
        while True:
            try:
                answer = inbox.get(timeout=1.0)
            except queue.Empty:
                if time.monotonic() - heard > _SILENT_SECONDS:
                    alive = sum(node["Alive"] for node in self._ray.nodes())
                    self._note(
                        f"nothing has come for {_SILENT_SECONDS:g} s; the cluster has {alive} machines. Ctrl-C stops, and keeps what is done"
                    )
                    heard = time.monotonic()
                yield nothing()
                continue
            if answer is None:
                return
            if isinstance(answer, Exception):
                raise _cluster_error(answer) from answer
            heard = time.monotonic()
            for line in answer.notes:
                if line not in said:
                    said.add(line)
                    self._note(line)
            if answer.error is not None:
                raise answer.error
            self._held[answer.who] = max(self._held.get(answer.who, 0), answer.memory)
            yield answer.done

    def _collect(
        self,
        parts: list[dict[str, bytes]],
        held: Any,
        cpus: int,
        gpus: int,
        slots: int,
        inbox: "queue.SimpleQueue[Answer | Exception | None]",
        stop: threading.Event,
    ) -> None:
        """In a thread of its own, since Ray waits as long as it takes."""
        ray: Any = self._ray
        try:
            _quiet(ray.data)
            data = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
                Machine,
                fn_constructor_kwargs={"held": [held]},  # in a list: else Ray would pass what it stands for
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=slots, initial_size=slots),
                num_cpus=cpus,
                num_gpus=gpus,
            )
            for row in data.iter_rows():
                inbox.put(pickle.loads(row["answer"]))
                if stop.is_set():
                    return
            inbox.put(None)
        except Exception as exc:
            inbox.put(exc)


def _ray() -> Any:
    # a call that comes after the end of a run would start a cluster of its own
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise ConfigError(
            f"--ray needs Ray Data ({reason(exc)}). Install it on every machine: pip install 'simclr-toolkit[cluster]'"
        ) from exc
    return ray


def _knock(address: str) -> None:
    """Ray waits a quarter of an hour for a port where nobody is. Raises OSError, ValueError."""
    if address == "auto" or address.startswith("ray://"):
        return
    host, port = address.rsplit(":", 1)
    socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Ray's C++ part says on stderr how much it is going to say; what it cannot do comes as an exception."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quiet(data: Any) -> None:
    """Ray Data's own progress and notes: `simclr embed` has one for all."""
    data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _cluster_error(exc: Exception) -> SimclrError:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and "simclr" in str(cause):
            return ConfigError(
                f"the machines of the cluster have no simclr. Install it on each: pip install 'simclr-toolkit[cpu,cluster]=={simclr.__version__}'"
            )
        cause = cause.__cause__
    return SimclrError(
        f"the Ray cluster failed: {type(exc).__name__}: {reason(exc)}. Run the same command again to go on."
    )

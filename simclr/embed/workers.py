"""Start the processes that embed, feed them, and find the file to blame where one dies.

One process on a CPU, one a GPU on a machine that has several; all of one machine, without a launcher. Gives what became of
the tasks as it comes; with one process, in their order.
"""

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.embed.lane import AHEAD, FLUSH, Limits
from simclr.embed.tasks import Done, Failed, Task, nothing
from simclr.embed.worker import Alive, Broken, Job, Ready, Tired
from simclr.errors import SimclrError
from simclr.runtime.backends import gpu_count
from simclr.runtime.model_files import open_folder

Note = Callable[[str], None]

_SILENT_SECONDS = 30.0
"""A worker that says nothing for so long, and the time of a file, is stuck."""
_MOST_DEATHS = 50
"""In a row, none in between embedded: it is not the files, then."""
_START = "import sys; sys.path[:] = {path!r}; from simclr.embed.worker import main; main()"


class Workers:
    """An export folder's encoder, in processes of its own."""

    def __init__(
        self,
        model: str | Path,
        *,
        backend: str = "auto",
        precision: str = "auto",
        limits: Limits | None = None,
        threads: int | None = None,
        note: Note = lambda line: None,
    ) -> None:
        """Options as of `Encoder.open`; `threads` by default as many as this process has cores. Raises ArtifactError; the model
        itself is opened by `run`, with the errors of `Encoder.open`."""
        self.model, info = open_folder(model)
        self.identity, self.width = info.encoder.identity, info.encoder.width
        self._backend, self._precision = backend, precision
        self._limits = limits or Limits()
        self._threads = threads or available_cpus()
        self._note = note
        self.memory = 0
        """Bytes of main memory that the processes have held at most, as they last said."""

    def run(self, tasks: Iterable[Task], known: NDArray[np.uint64]) -> Iterator[Done]:
        """What became of the tasks; of none where a second has passed, so that whoever waits can stop.

        `known`: prefixes of contents that need not be embedded again.
        """
        with self.crew(known) as crew:
            yield from crew.results(tasks)

    @contextlib.contextmanager
    def crew(self, known: NDArray[np.uint64]) -> Iterator["Crew"]:
        """The processes, for several `Crew.results` one after another."""
        crew = Crew(self._job(known), note=self._note)
        try:
            yield crew
        finally:
            self.memory = max(self.memory, crew.memory)
            crew.end()

    def _job(self, known: NDArray[np.uint64]) -> Job:
        return Job(
            model=self.model,
            backend=self._backend,
            precision=self._precision,
            threads=self._threads,
            limits=self._limits,
            known=known.tobytes(),
        )


class _Worker:
    """One process, and the tasks that it has not answered."""

    def __init__(self, job: Job, inbox: queue.SimpleQueue[Any], *, gpu: str | None, careful: bool) -> None:
        environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})
        self.gpu = gpu
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the one that keeps the store
        )
        self.ready: Ready | None = None
        self.careful = careful
        """Whether it gets one task at a time: one of them may kill it."""
        self.tasks: dict[int, Task] = {}
        self.flushed = False
        """Whether it knows that no more comes for now."""
        self.memory = 0
        self.why = ""
        """Of its end, where we end it."""
        self.heard = time.monotonic()
        self.tell(job)
        self._last_words: deque[bytes] = deque(maxlen=3)
        self._listeners = [
            threading.Thread(target=self._overhear, daemon=True),
            threading.Thread(target=self._listen, args=(inbox,), daemon=True),
        ]
        for listener in self._listeners:
            listener.start()

    @property
    def window(self) -> int:
        """Tasks that it may have."""
        if self.ready is None:
            return 0
        return 1 if self.careful else max(AHEAD * self.ready.batch, 32)

    def tell(self, message: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died, which is heard elsewhere
            pickle.dump(message, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()

    def give(self, tasks: list[Task]) -> None:
        self.tasks |= {task.number: task for task in tasks}
        self.tell(tasks)
        self.flushed = False

    def flush(self) -> None:
        if not self.flushed:
            self.tell(FLUSH)
            self.flushed = True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for listener in self._listeners:  # the pipes have ended with the process
            listener.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # of what was still to be written
                pipe.close()

    @property
    def ending(self) -> str:
        """How it ended, once it has."""
        code = self.process.returncode
        last = " ".join(b" ".join(self._last_words).decode("utf-8", "replace").split())
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self.why or (f"{how} ({last})" if last else how)

    def _overhear(self) -> None:
        """Decoders print remarks about odd files; only a process's last words are of use."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._last_words.append(line[:300])

    def _listen(self, inbox: queue.SimpleQueue[Any]) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                message = pickle.load(self.process.stdout)
            except (EOFError, pickle.UnpicklingError, OSError):
                inbox.put((self, None))
                return
            self.heard = time.monotonic()  # here: whoever reads the inbox may be writing a shard for a minute
            inbox.put((self, message))


class Crew:
    """The workers of one run, or of several. Made by `Workers.crew`."""

    def __init__(self, job: Job, *, note: Note) -> None:
        self._job = job
        self._tasks: Iterator[Task] = iter(())
        self._returned: deque[Task] = deque()
        """Of a worker that had to end, not to blame."""
        self._suspects: deque[Task] = deque()
        """Of a worker that died: each is tried alone."""
        self._note = note
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._choice: str | None = None
        self.memory = 0
        self._deaths = 0
        self._exhausted = False

    def results(self, tasks: Iterable[Task]) -> Iterator[Done]:
        """As `Workers.run`. To be gone through to its end before it is called again."""
        self._tasks, self._exhausted = iter(tasks), False
        if not self._workers:
            self._hire(gpu=None)
        while True:
            for worker in self._workers:
                self._feed(worker)
            if self._finished:
                return
            self._end_the_stuck()
            try:
                worker, message = self._inbox.get(timeout=1.0)
            except queue.Empty:
                yield nothing()
                continue
            if worker in self._workers:  # else they are the last words of one that is gone
                yield from self._hear(worker, message)

    @property
    def _finished(self) -> bool:
        waiting = self._returned or self._suspects or any(worker.tasks for worker in self._workers)
        return self._exhausted and not waiting

    def end(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    # ---- what workers say

    def _hear(self, worker: _Worker, message: Any) -> Iterator[Done]:
        if isinstance(message, Done):
            self._deaths = 0
            self._remember(worker, message.memory)
            for number in _numbers(message):
                del worker.tasks[number]
            yield message
        elif isinstance(message, Ready):
            self._welcome(worker, message)
        elif isinstance(message, str):
            self._note(message)
        elif isinstance(message, SimclrError):
            raise message
        elif isinstance(message, Broken):
            raise RuntimeError(f"the process that embeds failed:\n{message.traceback}")
        elif isinstance(message, Tired):
            self._returned.extend(worker.tasks.values())
            self._replace(worker, careful=worker.careful)
        elif message is None:
            yield from self._bury(worker)
        else:
            assert isinstance(message, Alive)
            self._remember(worker, message.memory)
            yield nothing()

    def _remember(self, worker: _Worker, memory: int) -> None:
        worker.memory = memory
        self.memory = max(self.memory, sum(worker.memory for worker in self._workers))

    def _welcome(self, worker: _Worker, ready: Ready) -> None:
        worker.ready = ready
        if self._choice is None:  # the first one: whatever takes long at the first opening is done
            self._choice = ready.choice
            self._note(ready.choice)
            gpus = _gpus() if ready.backend != "ort-cpu" else []
            if len(gpus) > 1:
                self._note(f"embedding on {len(gpus)} GPUs, a process each")
                self._job = replace(self._job, threads=max(1, self._job.threads // len(gpus)))
            for gpu in gpus[1:]:
                self._hire(gpu=gpu)

    def _bury(self, worker: _Worker) -> Iterator[Done]:
        """A worker has died. Where it had one file, that is to blame; else each of them is tried alone."""
        worker.kill()
        self._deaths += 1
        if worker.ready is None or self._deaths == _MOST_DEATHS:
            raise SimclrError(
                f"{self._job.model}: the process that embeds with it ended with {worker.ending}, "
                f"{'before it was ready' if worker.ready is None else f'{_MOST_DEATHS} times in a row'}. Is there memory enough? "
                "Try another --backend, or `simclr doctor`."
            )
        suspects = list(worker.tasks.values())
        if len(suspects) == 1:
            reason = f"ends the process that decodes it, with {worker.ending}"
            yield replace(nothing(), failed=[Failed(suspects[0].number, reason)])
        else:
            self._suspects.extend(suspects)
        self._replace(worker, careful=bool(self._suspects))

    def _end_the_stuck(self) -> None:
        longest = self._job.limits.seconds + _SILENT_SECONDS
        for worker in self._workers:
            if worker.ready is not None and time.monotonic() - worker.heard > longest:
                worker.why = f"{longest:g} s of silence"
                worker.process.kill()  # its end is heard like any other

    # ---- who does what

    def _hire(self, *, gpu: str | None, careful: bool = False) -> None:
        self._workers.append(_Worker(self._job, self._inbox, gpu=gpu, careful=careful))

    def _replace(self, worker: _Worker, *, careful: bool) -> None:
        worker.kill()
        self._workers.remove(worker)
        self._hire(gpu=worker.gpu, careful=careful)

    def _feed(self, worker: _Worker) -> None:
        """Fill the worker's window once it has room for some; say so when there is no more."""
        if worker.careful and not self._suspects and not worker.tasks:
            worker.careful = False
        room = worker.window - len(worker.tasks)
        if room <= 0 or (worker.ready and room < min(worker.ready.batch, worker.window)):
            return
        tasks = list(self._next(room, suspects=worker.careful))
        if tasks:
            worker.give(tasks)
        if worker.careful or len(tasks) < room:
            worker.flush()

    def _next(self, count: int, *, suspects: bool) -> Iterator[Task]:
        for _ in range(count):
            if suspects and self._suspects:
                yield self._suspects.popleft()
            elif suspects:
                return
            elif self._returned:
                yield self._returned.popleft()
            elif (task := next(self._tasks, None)) is not None:
                yield task
            else:
                self._exhausted = True
                return


def _numbers(done: Done) -> Iterator[int]:
    for part in (done.images, done.known, done.failed):
        yield from (result.number for result in part)


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[: gpu_count()] if named else [str(i) for i in range(gpu_count())]

"""Run a TensorRT plan: uint8 images -> unit-length float32 vectors. No torch, no ONNX Runtime.

Two slots of buffers and two streams: while one batch is computed, the next goes up and the one before comes down. A batch runs
in the smallest of a few fixed sizes that holds it, each captured once as a CUDA graph; what it leaves over is computed and
thrown away.
"""

import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import ModelInfo
from simclr.errors import ArtifactError, ConfigError, TensorRTError
from simclr.runtime.cuda import Cuda, device
from simclr.runtime.plans import Note, import_tensorrt, obtain_plan, plan_path

SIZES = (1, 8, 32, 64, 128, 256)
"""Batch sizes that get a graph, as they are needed."""
_SLOTS = 2


@dataclass(frozen=True)
class _Slot:
    """Buffers for one batch on its way; the arrays are pinned."""

    images: NDArray[np.uint8]
    images_there: int
    """Address on the GPU."""
    vectors: NDArray[np.float32]
    vectors_there: int
    up: Any
    """Event: the images are on the GPU."""
    computed: Any
    down: Any
    """Event: the vectors are here."""


@dataclass(frozen=True)
class _Ticket:
    """A batch, or a part of one, that is on its way."""

    slot: _Slot
    count: int
    ends_batch: bool


class TrtEngine:
    """A plan, ready to run. Make one with `open_trt`."""

    backend = "trt"

    def __init__(
        self, engine: Any, cuda: Cuda, *, size: int, width: int, max_batch: int, provider: str
    ) -> None:
        self.provider = provider
        self.width = width
        self._engine, self._cuda = engine, cuda
        self._sizes = sorted({batch for batch in SIZES if batch < max_batch} | {max_batch})
        self._copying, self._computing = cuda.stream(), cuda.stream()
        self._slots = [self._slot(max_batch, size) for _ in range(_SLOTS)]
        self._graphs: dict[tuple[int, int], Any] = {}
        """Batch size and slot -> graph."""
        self._contexts: dict[int, Any] = {}
        """Batch size -> execution context; its memory is what the graphs compute in."""
        self._shape = (size, size, 3)
        self._one_at_a_time = threading.Lock()
        self._busy: int | None = None
        """The thread that has the lock."""
        self._free = weakref.finalize(self, cuda.close)
        self._free.atexit = False  # CUDA may be gone by then, and the memory with it

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        (vectors,) = self.stream([pixels])
        return vectors

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """In order, an array of its own for each batch, of any size.

        One at a time: another thread waits for the end of this one, the same thread gets a RuntimeError.
        """
        me = threading.get_ident()
        if self._busy == me:
            raise RuntimeError(
                "a stream of this engine is open in this thread. Go to its end, or close it first."
            )
        with self._one_at_a_time:
            self._busy = me
            try:
                yield from self._pipeline(batches)
            finally:  # also where the caller stops half-way: buffers belong to the next stream then
                self._cuda.finish(self._computing)
                self._cuda.finish(self._copying)
                self._busy = None

    def close(self) -> None:
        """Free everything on the GPU, as forgetting the engine does. It is of no use afterwards."""
        self._graphs.clear()
        self._free()
        self._contexts.clear()
        self._engine = None

    # ---- a batch on its way

    def _pipeline(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = []
        before: _Ticket | None = None
        number = 0
        for batch in batches:
            if (
                batch.dtype != np.uint8 or batch.shape[1:] != self._shape
            ):  # copying would cast and repeat in silence
                raise ConfigError(
                    f"images of shape {batch.shape} and dtype {batch.dtype}: this takes (N, *{self._shape}) uint8."
                )
            if not len(batch):
                yield from self._last(before, found)
                before = None
                yield np.empty((0, self.width), np.float32)
                continue
            for start in range(0, len(batch), self._sizes[-1]):
                part = batch[start : start + self._sizes[-1]]
                ticket = self._submit(number % _SLOTS, part, ends_batch=start + len(part) == len(batch))
                number += 1
                if before is not None:
                    self._fetch(before)  # after the upload of the next one, which would wait behind it
                    yield from self._collect(before, found)
                before = ticket
        yield from self._last(before, found)

    def _last(
        self, ticket: _Ticket | None, found: list[NDArray[np.float32]]
    ) -> Iterator[NDArray[np.float32]]:
        if ticket is not None:
            self._fetch(ticket)
            yield from self._collect(ticket, found)

    def _submit(self, number: int, pixels: NDArray[np.uint8], *, ends_batch: bool) -> _Ticket:
        cuda, slot = self._cuda, self._slots[number]
        size = next(size for size in self._sizes if size >= len(pixels))
        graph = self._graph(size, number)
        slot.images[: len(pixels)] = pixels
        cuda.upload(slot.images_there, slot.images[:size], self._copying)
        cuda.record(slot.up, self._copying)
        cuda.wait(self._computing, slot.up)
        cuda.launch(graph, self._computing)
        cuda.record(slot.computed, self._computing)
        return _Ticket(slot, len(pixels), ends_batch)

    def _fetch(self, ticket: _Ticket) -> None:
        slot = ticket.slot
        self._cuda.wait(self._copying, slot.computed)
        self._cuda.download(slot.vectors[: ticket.count], slot.vectors_there, self._copying)
        self._cuda.record(slot.down, self._copying)

    def _collect(self, ticket: _Ticket, found: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        self._cuda.until(ticket.slot.down)
        found.append(ticket.slot.vectors[: ticket.count].copy())
        if ticket.ends_batch:
            whole = np.concatenate(found)
            found.clear()
            yield whole

    # ---- what is made once

    def _slot(self, batch: int, size: int) -> _Slot:
        images = self._cuda.pinned((batch, size, size, 3), np.uint8)
        vectors = self._cuda.pinned((batch, self.width), np.float32)
        images[:] = 0
        there = self._cuda.memory(images.nbytes), self._cuda.memory(vectors.nbytes)
        return _Slot(images, there[0], vectors, there[1], *(self._cuda.event() for _ in range(3)))

    def _graph(self, size: int, number: int) -> Any:
        if (size, number) not in self._graphs:
            slot, context = self._slots[number], self._context(size)
            context.set_tensor_address("images", slot.images_there)
            context.set_tensor_address("embedding", slot.vectors_there)
            self._execute(context)  # TensorRT makes its own memory at the first run, which a capture forbids
            self._cuda.finish(self._computing)
            self._graphs[size, number] = self._cuda.capture(self._computing, lambda: self._execute(context))
        return self._graphs[size, number]

    def _context(self, size: int) -> Any:
        if size not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None:
                raise TensorRTError(
                    f"TensorRT cannot prepare batches of {size} (memory of the GPU?). Use a smaller batch, or --backend ort-cuda."
                )
            stream = int(self._computing)
            if not context.set_optimization_profile_async(self._profile(size), stream):
                raise TensorRTError(
                    f"TensorRT refuses its profile for batches of {size}. Build the plan again."
                )
            if not context.set_input_shape("images", (size, *self._shape)):
                raise TensorRTError(f"TensorRT refuses batches of {size}. Build the plan again.")
            self._contexts[size] = context
        return self._contexts[size]

    def _profile(self, size: int) -> int:
        """The first that takes batches of this size."""
        count = self._engine.num_optimization_profiles
        for i in range(count):
            smallest, _, largest = self._engine.get_tensor_profile_shape("images", i)
            if smallest[0] <= size <= largest[0]:
                return i
        raise TensorRTError(
            f"none of the plan's {count} profiles takes batches of {size}. Build the plan again."
        )

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(int(self._computing)):
            raise TensorRTError("TensorRT fails to run the plan. Build it again with `simclr export --trt`.")


def open_trt(folder: Path, info: ModelInfo, precision: str, *, note: Note) -> TrtEngine:
    """The plan of one precision, built first where there is none that may be loaded; `note` is told of that.

    Raises MissingExtra, ConfigError (no GPU), TensorRTError, ArtifactError (another form than the manifest describes).
    """
    trt = import_tensorrt()
    plan = obtain_plan(folder, info, precision, note=note)
    path = plan_path(folder, precision)
    logger = trt.Logger(trt.Logger.ERROR)
    runtime = trt.Runtime(logger)  # engine_host_code_allowed stays False
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(
            f"{path}: TensorRT {trt.__version__} cannot load it. Delete it; it is built again."
        )
    size, width = info.encoder.recipe.size, info.encoder.width
    expected = {
        "images": (trt.DataType.UINT8, (-1, size, size, 3)),
        "embedding": (trt.DataType.FLOAT, (-1, width)),
    }
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found = {name: (engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))) for name in names}
    if found != expected:
        raise ArtifactError(
            f"{path}: takes and gives {found}, but the manifest describes {expected}. Delete it."
        )
    cuda = Cuda()
    try:
        return TrtEngine(
            engine,
            cuda,
            size=size,
            width=width,
            max_batch=info.max_batch,
            provider=f"TensorRT {trt.__version__}, {device().name}",
        )
    except BaseException:
        cuda.close()
        raise

"""Which backend and which precision: as named, or the best that really starts. Prints nothing, says why.

    trt        a TensorRT plan, built here from the ONNX file; without ONNX Runtime
    ort-trt    ONNX Runtime's TensorRT provider
    ort-cuda   ONNX Runtime's CUDA provider
    ort-cpu    ONNX Runtime on the CPU

A named backend is that one or an error. `auto` takes the first of trt (if its plan is built), ort-cuda and ort-cpu
that opens the file and says what kept the better ones out.
"""

import ctypes
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import ModelInfo
from simclr.cache_folder import own_folder
from simclr.cpus import available_cpus
from simclr.errors import ConfigError, SimclrError
from simclr.runtime.model_files import FILE_OF, read_model, refuse_unusable
from simclr.runtime.ort import PROVIDERS, available_providers, check_form, open_ort

Note = Callable[[str], None]

RUNS = {
    "trt": ("fp32", "fp16", "bf16", "int8-trt"),
    "ort-trt": ("fp32", "fp16", "bf16", "int8-trt"),
    "ort-cuda": ("fp32", "fp16", "bf16"),
    "ort-cpu": ("fp32", "fp16", "int8", "int8-trt"),
}
"""Backend -> precisions it can run. The CPU has no kernels for bf16."""
UNASKED = {
    "trt": ("fp16", "fp32"),
    "ort-trt": ("fp16", "fp32"),
    "ort-cuda": ("fp16", "fp32"),
    "ort-cpu": ("fp32",),
}
"""Backend -> what is taken where no precision is named, the first that is there and usable. Never INT8, which changes some
neighbours; on the CPU not fp16, which is computed in fp32 there and gains nothing."""


class Engine(Protocol):
    """One exported graph, ready to run."""

    backend: str
    provider: str
    """What computes, as read back, with its version."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, size, size, 3) uint8 RGB -> (N, width) float32, unit length."""
        ...

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """Batches in order; copying and computing overlap where the backend can."""
        ...


class Choice:
    """A backend and a precision that open, and in one line why these."""

    def __init__(self, engine: Engine, precision: str, against: list[str]) -> None:
        self.engine = engine
        self.precision = precision
        self.words = f"backend: {engine.backend}, {precision}" + (
            f" ({'; '.join(against)})" if against else ""
        )


def choose(
    folder: Path, info: ModelInfo, *, backend: str, precision: str, threads: int | None, note: Note
) -> Choice:
    """Open an engine. `backend` and `precision` may be `auto`. `note` gets a sentence where a plan is built.

    Raises ConfigError (unknown, absent, or a pair that does not go together), ArtifactError (the file).
    """
    if backend not in ("auto", *RUNS):
        raise ConfigError(f"backend {backend!r} is unknown. Use one of: auto, {', '.join(RUNS)}.")
    if precision not in ("auto", *FILE_OF):
        raise ConfigError(f"precision {precision!r} is unknown. Use one of: auto, {', '.join(FILE_OF)}.")
    if backend != "auto":
        taken = _precision(folder, info, backend, precision)
        return Choice(_open(folder, info, backend, taken, threads, note), taken, [])
    against: list[str] = []
    for candidate in ("trt", "ort-cuda"):
        try:
            if why := _not_worth_trying(candidate, folder, info, precision):
                against.append(why)
                continue
            taken = _precision(folder, info, candidate, precision)
            return Choice(_open(folder, info, candidate, taken, threads, note), taken, _once(against))
        except SimclrError as exc:
            against.append(f"{candidate}: {exc}")
    taken = _precision(folder, info, "ort-cpu", precision)
    return Choice(_open(folder, info, "ort-cpu", taken, threads, note), taken, _once(against))


def gpu_count() -> int:
    """NVIDIA GPUs that the driver shows to this process; 0 without a driver. Takes no memory of theirs."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def _not_worth_trying(backend: str, folder: Path, info: ModelInfo, precision: str) -> str:
    """Why `auto` passes a backend over without a try; empty where it should try."""
    if not gpu_count():
        return "no NVIDIA GPU here"
    if backend == "trt":
        from simclr.runtime.plans import why_no_plan

        return why_no_plan(folder, info, _precision(folder, info, "trt", precision))
    if PROVIDERS[backend] not in available_providers():
        return (
            "a GPU is here, but this onnxruntime is the build for the CPU: pip uninstall -y onnxruntime && "
            "pip install 'simclr-toolkit[gpu]'"
        )
    return ""


def _precision(folder: Path, info: ModelInfo, backend: str, precision: str) -> str:
    """The named precision, or the best usable one that the backend runs. Raises ConfigError, ArtifactError."""
    there = {file.precision: file for file in info.files.values()}
    if precision != "auto":
        if precision not in there:
            raise ConfigError(
                f"{folder}: holds no {precision}, but {', '.join(there)}. Run `simclr export --precision {precision}` again."
            )
        if precision not in RUNS[backend]:
            raise ConfigError(
                f"backend {backend} does not run {precision}. It runs {', '.join(RUNS[backend])}."
            )
        refuse_unusable(folder, precision, there[precision])
        return precision
    return next(name for name in UNASKED[backend] if name in there and there[name].usable)


def _open(
    folder: Path, info: ModelInfo, backend: str, precision: str, threads: int | None, note: Note
) -> Engine:
    if backend == "trt":
        from simclr.runtime.tensorrt import open_trt

        return open_trt(folder, info, precision, note=note)
    path = folder / FILE_OF[precision]
    engine = open_ort(
        read_model(folder, info, precision),
        name=str(path),
        backend=backend,
        threads=threads or available_cpus(),
        size=info.encoder.recipe.size,
        max_batch=info.max_batch,
        # its engines are code: not beside the file, where anybody may have put them
        cache=str(own_folder(f"ort-trt/{info.files[FILE_OF[precision]].sha256}"))
        if backend == "ort-trt"
        else "",
    )
    check_form(engine, info, name=str(path))
    return engine


def _once(reasons: list[str]) -> list[str]:
    """In order, each once: two backends may be kept out by the same thing."""
    return list(dict.fromkeys(reasons))

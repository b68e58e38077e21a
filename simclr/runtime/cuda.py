"""The few calls of the CUDA runtime that running a plan takes: memory, streams, events, graphs. No torch.

On NVIDIA's own bindings (`cuda-python`). Every return code is looked at; what a `Cuda` has made, it frees.
"""

import ctypes
import importlib
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from simclr.errors import ConfigError, MissingExtra

_MODULE = "cuda.bindings.runtime"
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_GPU = 0
"""The first that CUDA_VISIBLE_DEVICES leaves."""


@dataclass(frozen=True)
class Device:
    """What a plan is bound to, besides TensorRT."""

    name: str
    compute_capability: str
    driver: str
    runtime: str
    """CUDA's version, such as 13.0."""


def device() -> Device:
    """The GPU in use. Raises MissingExtra, ConfigError where there is none."""
    cuda = Cuda()
    found = cuda.call("cudaGetDeviceProperties", _GPU)
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Device(
        name=name.rstrip("\0"),
        compute_capability=f"{found.major}.{found.minor}",
        driver=_driver() or _version(cuda.call("cudaDriverGetVersion")),
        runtime=_version(cuda.call("cudaRuntimeGetVersion")),
    )


class Cuda:
    """Checked calls, and all that was made with them until `close`."""

    def __init__(self) -> None:
        self._runtime = _bindings()
        self._made = ExitStack()

    def call(self, name: str, *arguments: Any) -> Any:
        """What a call gives besides its return code. Raises ConfigError naming the call and CUDA's own word for the error."""
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error) != 0:
            raise ConfigError(
                f"the GPU cannot be used: {name} gives {error.name}. Look at `nvidia-smi`, or use --backend ort-cpu."
            )
        return values[0] if len(values) == 1 else None

    def close(self) -> None:
        self._made.close()

    # ---- memory

    def memory(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        return int(self._keep(self.call("cudaMalloc", size), "cudaFree"))

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array in memory that the GPU copies from and to by itself, while the host goes on."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._keep(self.call("cudaHostAlloc", size, 0), "cudaFreeHost"))
        held = (ctypes.c_uint8 * size).from_address(address)
        return np.ctypeslib.as_array(held).view(dtype).reshape(shape)

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Queue a copy of a pinned, contiguous array to the GPU."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy from the GPU into a pinned, contiguous array."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    # ---- order

    def stream(self) -> Any:
        """A queue of its own, that waits for no other unless told."""
        flags = self._runtime.cudaStreamNonBlocking
        return self._keep(self.call("cudaStreamCreateWithFlags", flags), "cudaStreamDestroy")

    def event(self) -> Any:
        flags = self._runtime.cudaEventDisableTiming
        return self._keep(self.call("cudaEventCreateWithFlags", flags), "cudaEventDestroy")

    def record(self, event: Any, stream: Any) -> None:
        """The event happens once all that is in the stream now is done."""
        self.call("cudaEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """What comes into the stream from now on waits for the event; the host does not."""
        self.call("cudaStreamWaitEvent", stream, event, 0)

    def until(self, event: Any) -> None:
        """The host waits for the event."""
        self.call("cudaEventSynchronize", event)

    def finish(self, stream: Any) -> None:
        """The host waits for all that is in the stream."""
        self.call("cudaStreamSynchronize", stream)

    # ---- graphs

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """What `work` puts into the stream, as one graph to launch again and again; nothing of it runs now."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        try:
            work()
        except BaseException:
            self._runtime.cudaStreamEndCapture(stream)  # its own complaint would hide what went wrong
            raise
        graph = self.call("cudaStreamEndCapture", stream)
        try:
            return self._keep(self.call("cudaGraphInstantiate", graph, 0), "cudaGraphExecDestroy")
        finally:
            self.call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        self.call("cudaGraphLaunch", graph, stream)

    def _keep(self, made: Any, free: str) -> Any:
        self._made.callback(self.call, free, made)
        return made


def _bindings() -> Any:
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError:
        raise MissingExtra("cuda-python", "gpu") from None


def _driver() -> str:
    """Version of the kernel module, such as 580.95.05; empty where the system does not say (not Linux)."""
    try:
        words = _KERNEL_MODULE.read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""
    found = re.search(r"\d+\.\d+(\.\d+)?", words)
    return found.group() if found else ""


def _version(number: int) -> str:
    """13020 -> 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"

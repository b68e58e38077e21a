"""A GPU and a TensorRT that compute, as lazily as the rules of CUDA allow, and record every call.

Nothing in a stream runs until the host waits for it, or something the host waits for does. So a wait that is missing, or a
buffer that is used again too early, gives wrong numbers. Memory has real addresses; what is freed or never made is an error.
The plan computes the mean colours of a 2x2 grid, as the fake encoder of conftest.py does.
"""

import ctypes
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np

Op = Callable[[], None]


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorStreamCaptureUnsupported = 900


@dataclass
class Stream:
    number: int
    queue: list[tuple[str, Any]] = field(default_factory=list)
    captured: list[Op] | None = None
    """What is put into it between the beginning and the end of a capture."""

    def __int__(self) -> int:
        return self.number


@dataclass
class Event:
    last: tuple[Stream, object] | None = None
    """Where and as what it was recorded last."""


class FakeCuda:
    """`cuda.bindings.runtime`."""

    cudaStreamNonBlocking, cudaEventDisableTiming = 1, 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self.calls = calls
        self.alive: dict[int, Any] = {}
        """Everything made and not freed yet."""
        self.streams: dict[int, Stream] = {}
        self.memory_left = 1 << 30
        self.ignored: set[str] = set()
        """Calls that do nothing: sabotage."""
        self.name, self.driver, self.runtime = "NVIDIA H200", 13020, 13000

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if not name.startswith("cuda") or not callable(found):
            return found

        def recorded(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            return (Error.cudaSuccess,) if name in self.ignored else found(*arguments)

        return recorded

    # ---- memory

    def _make(self, thing: Any, number: int) -> tuple[Error, Any]:
        self.alive[number] = thing
        return Error.cudaSuccess, number

    def _allocate(self, size: int) -> tuple[Error, Any]:
        if size > self.memory_left:
            return Error.cudaErrorMemoryAllocation, None
        self.memory_left -= size
        block = np.full(size, 171, np.uint8)
        return self._make(block, block.ctypes.data)

    def cudaMalloc(self, size: int) -> tuple[Error, Any]:
        return self._allocate(size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Error, Any]:
        return self._allocate(size)

    def cudaFree(self, address: int) -> tuple[Error]:
        self.memory_left += len(self.alive.pop(address))
        return (Error.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, to: int, source: int, count: int, kind: int, stream: Stream) -> tuple[Error]:
        for address in (to, source):
            assert any(a <= address and address + count <= a + len(b) for a, b in self.blocks()), "not ours"
        return self.put(stream, lambda: ctypes.memmove(to, source, count))

    def blocks(self) -> Iterator[tuple[int, Any]]:
        return ((a, b) for a, b in self.alive.items() if isinstance(b, np.ndarray))

    # ---- streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, Stream]:
        stream = Stream(1000 + len(self.calls))
        self.streams[stream.number] = self.alive[id(stream)] = stream
        return Error.cudaSuccess, stream

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Error, Event]:
        event = Event()
        self.alive[id(event)] = event
        return Error.cudaSuccess, event

    def _destroy(self, thing: Any) -> tuple[Error]:
        del self.alive[id(thing)]
        return (Error.cudaSuccess,)

    cudaStreamDestroy = cudaEventDestroy = cudaGraphDestroy = cudaGraphExecDestroy = _destroy

    def put(self, stream: Stream, work: Op) -> tuple[Error]:
        if stream.captured is not None:
            stream.captured.append(work)
        else:
            stream.queue.append(("run", work))
        return (Error.cudaSuccess,)

    def cudaEventRecord(self, event: Event, stream: Stream) -> tuple[Error]:
        mark = object()
        event.last = stream, mark
        stream.queue.append(("mark", mark))
        return (Error.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream: Stream, event: Event, flags: int) -> tuple[Error]:
        stream.queue.append(("wait", event.last))
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event: Event) -> tuple[Error]:
        if event.last is not None:
            self._run(*event.last)
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Error]:
        self._run(stream, None)
        return (Error.cudaSuccess,)

    def _run(self, stream: Stream, mark: object) -> None:
        """What is in the stream, up to a mark, and what that waits for; nothing else."""
        if mark is not None and ("mark", mark) not in stream.queue:
            return  # it has happened
        while stream.queue:
            kind, what = stream.queue.pop(0)
            if kind == "run":
                what()
            elif kind == "wait" and what is not None:
                self._run(*what)
            elif kind == "mark" and what is mark:
                return

    # ---- graphs

    def cudaStreamBeginCapture(self, stream: Stream, mode: int) -> tuple[Error]:
        stream.captured = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Error, Any]:
        graph, stream.captured = SimpleNamespace(ops=stream.captured), None
        self.alive[id(graph)] = graph
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Error, Any]:
        made = SimpleNamespace(ops=list(graph.ops))
        self.alive[id(made)] = made
        return Error.cudaSuccess, made

    def cudaGraphLaunch(self, graph: Any, stream: Stream) -> tuple[Error]:
        for work in graph.ops:
            self.put(stream, work)
        return (Error.cudaSuccess,)

    # ---- the machine

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:
        return Error.cudaSuccess, SimpleNamespace(name=self.name.encode(), major=9, minor=0)

    def cudaDriverGetVersion(self) -> tuple[Error, int]:
        return Error.cudaSuccess, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Error, int]:
        return Error.cudaSuccess, self.runtime


class FakeTensorRT:
    """The module `tensorrt`, as far as both 10.13 and 11 have it: a name that 11 took away is an AttributeError."""

    def __init__(self, cuda: FakeCuda, calls: list[tuple[Any, ...]], version: str = "11.4.0.106") -> None:
        self.cuda, self.calls, self.__version__ = cuda, calls, version
        self.DataType = Enum("DataType", ["UINT8", "FLOAT"])
        self.ProfilingVerbosity = Enum("ProfilingVerbosity", ["DETAILED"])
        self.BuilderFlag = Enum("BuilderFlag", ["TF32"])
        self.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
        severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])
        self.ILogger = type("ILogger", (), {"Severity": severity})
        self.Logger = type("Logger", (), {"ERROR": severity.ERROR, "__init__": lambda self, level: None})
        self.parse_errors: list[str] = []
        self.builds, self.loads, self.runs = True, True, True
        self.built = 0

    def say(self, *call: Any) -> None:
        self.calls.append(call)

    # ---- building

    def Builder(self, logger: Any) -> Any:
        def build(network: Any, config: Any) -> bytes | None:
            self.say("build_serialized_network")
            if not self.builds:
                logger.log(self.ILogger.Severity.ERROR, "Cuda Runtime (out of memory)\n  in kernel selection")
                return None
            self.built += 1
            return json.dumps({"profiles": config.profiles, "number": self.built}).encode()

        def create_network(flags: int) -> Any:
            self.say("create_network", flags)
            return SimpleNamespace(onnx=b"")

        def create_optimization_profile() -> Any:
            profile = SimpleNamespace(shapes=None)
            profile.set_shape = lambda name, *shapes: (
                setattr(profile, "shapes", shapes),
                self.say("set_shape", name, *shapes),
            )
            return profile

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=self._config,
            create_optimization_profile=create_optimization_profile,
            build_serialized_network=build,
        )

    def _config(self) -> Any:
        class Config:
            """Settings are recorded, too."""

            def __init__(self) -> None:
                self.profiles: list[Any] = []

            def __setattr__(self, name: str, value: Any) -> None:
                object.__setattr__(self, name, value)
                if name != "profiles":
                    say("set", name, value)

            def clear_flag(self, flag: Any) -> None:
                say("clear_flag", flag.name)

            def add_optimization_profile(self, profile: Any) -> None:
                self.profiles.append(profile.shapes)

            def create_timing_cache(self, blob: bytes) -> bytes:
                say("create_timing_cache", blob)
                return blob + b"+"

            def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> None:
                say("set_timing_cache", cache, ignore_mismatch)
                object.__setattr__(self, "cache", cache)

            def get_timing_cache(self) -> Any:
                return SimpleNamespace(serialize=lambda: self.cache)

        say = self.say
        return Config()

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(onnx: bytes) -> bool:
            self.say("parse", len(onnx))
            return not self.parse_errors

        def get_error(i: int) -> Any:
            return SimpleNamespace(
                desc=lambda: self.parse_errors[i], node_name=lambda: "node_7", node_operator=lambda: "Resize"
            )

        return SimpleNamespace(parse=parse, get_error=get_error, num_errors=len(self.parse_errors))

    # ---- running

    def Runtime(self, logger: Any) -> Any:
        def load(plan: bytes) -> Any:
            self.say("deserialize_cuda_engine", plan)
            return FakeEngine(self, json.loads(plan)) if self.loads else None

        return SimpleNamespace(deserialize_cuda_engine=load, engine_host_code_allowed=False)


class FakeEngine:
    num_io_tensors = 2

    def __init__(self, trt: FakeTensorRT, plan: dict[str, Any]) -> None:
        self.trt, self.profiles = trt, plan["profiles"]
        self.num_optimization_profiles = len(self.profiles)
        self.side = self.profiles[0][0][1]
        self.width = plan.get("width", 12)

    def get_tensor_name(self, i: int) -> str:
        return ("images", "embedding")[i]

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.DataType.UINT8 if name == "images" else self.trt.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, self.side, self.side, 3) if name == "images" else (-1, self.width)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Any]:
        return self.profiles[profile]

    def create_execution_context(self) -> "FakeContext":
        self.trt.say("create_execution_context")
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.trt = engine, engine.trt
        self.profile: int | None = None
        self.shape: tuple[int, ...] = ()
        self.at: dict[str, int] = {}
        self.warm = False

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.trt.say("set_optimization_profile_async", profile)
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.trt.say("set_input_shape", name, shape)
        if self.profile is None:
            return False
        smallest, _, largest = self.engine.profiles[self.profile]
        self.shape = shape
        return smallest[0] <= shape[0] <= largest[0] and list(shape[1:]) == list(largest[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.trt.say("set_tensor_address", name)
        self.at[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        queue = self.trt.cuda.streams[stream]
        self.trt.say("execute_async_v3", "captured" if queue.captured is not None else "plain")
        assert self.warm or queue.captured is None, "memory is made at the first run, which a capture forbids"
        self.warm = True
        shape, at, width = self.shape, dict(self.at), self.engine.width
        self.trt.cuda.put(queue, lambda: compute(shape, at["images"], at["embedding"], width))
        return self.trt.runs


def compute(shape: tuple[int, ...], images: int, vectors: int, width: int) -> None:
    count = int(np.prod(shape))
    pixels = np.frombuffer((ctypes.c_uint8 * count).from_address(images), np.uint8).reshape(shape)
    out = np.frombuffer((ctypes.c_float * (shape[0] * width)).from_address(vectors), np.float32)
    out[:] = grid_colours(pixels).ravel()


def grid_colours(pixels: np.ndarray) -> np.ndarray:
    """Mean colour of each quarter, channel after channel, at unit length: (N, 12) float32."""
    half = pixels.shape[1] // 2
    quarters = pixels.reshape(len(pixels), 2, half, 2, half, 3).astype(np.float64).mean((2, 4)) / 255
    features = quarters.transpose(0, 3, 1, 2).reshape(len(pixels), 12) + 1e-3
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


@dataclass
class Nvidia:
    cuda: FakeCuda
    trt: FakeTensorRT
    calls: list[tuple[Any, ...]]

    def named(self, *names: str) -> list[str]:
        """Names of the calls made, in order; of these only if any are given."""
        return [call[0] for call in self.calls if not names or call[0] in names]


@contextmanager
def nvidia(monkeypatch: Any, version: str) -> Iterator[Nvidia]:
    """A machine with an H200 and TensorRT, for as long as the block runs."""
    import importlib

    real = importlib.import_module
    calls: list[tuple[Any, ...]] = []
    cuda = FakeCuda(calls)
    trt = FakeTensorRT(cuda, calls, version)
    fakes = {"cuda.bindings.runtime": cuda, "tensorrt": trt}
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib, "import_module", lambda name, package=None: fakes.get(name) or real(name, package)
        )
        patch.setattr("simclr.runtime.backends.gpu_count", lambda: 1)
        patch.setattr("simclr.runtime.cuda._driver", lambda: "580.95.05")
        yield Nvidia(cuda, trt, calls)

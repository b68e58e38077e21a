"""ONNX Runtime on exactly one provider. No torch.

ONNX Runtime by itself goes on with the CPU where a GPU provider fails, printing at most a warning. Here a provider
is the one asked for, for every node of the graph, or an error.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.artifacts import ModelInfo
from simclr.errors import ArtifactError, ConfigError, MissingExtra, reason

PROVIDERS = {
    "ort-cpu": "CPUExecutionProvider",
    "ort-cuda": "CUDAExecutionProvider",
    "ort-trt": "TensorrtExecutionProvider",
}

_NOWHERE = "/dev/null"
"""Weights outside the file would be looked for below this, which is no folder: only one-file models open."""


class OrtEngine:
    """One graph in one session. Make one with `open_ort`."""

    def __init__(self, session: Any, *, backend: str, provider: str) -> None:
        self.session = session
        self.backend = backend
        self.provider = provider
        """As read back from the session, with ONNX Runtime's version."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not len(pixels):  # not every provider takes nothing
            return np.empty((0, self.session.get_outputs()[0].shape[1]), np.float32)
        vectors: NDArray[np.float32] = self.session.run(None, {"images": pixels})[0]
        return vectors

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        return map(self, batches)


def available_providers() -> list[str]:
    """What this build of ONNX Runtime offers, whether or not it starts. Raises MissingExtra."""
    return list(_onnxruntime().get_available_providers())


def open_ort(
    model: bytes,
    *,
    name: str,
    backend: str,
    threads: int,
    max_batch: int = 256,
    size: int = 0,
    cache: str = "",
) -> OrtEngine:
    """A session on the provider of `backend`, and no other. `name` is for messages.

    `threads`: of the CPU provider. For ort-trt: `max_batch` and `size` (pixels a side) bound its one profile, and
    `cache` is the folder where it keeps its engines. Raises ConfigError (the provider is absent or does not take the
    graph), ArtifactError (no model, or one with weights outside the file).
    """
    onnxruntime = _onnxruntime()
    provider = PROVIDERS[backend]
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"backend {backend} is not in this onnxruntime, which is the build for {_build(onnxruntime)}. "
            f"{_advice(backend)}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry(
        "session.force_spinning_stop", "1"
    )  # cores between calls are for decoding
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
    if backend != "ort-cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(
            model,
            options,
            providers=[(provider, _provider_options(backend, size=size, max_batch=max_batch, cache=cache))],
            enable_fallback=0,
        )
    except Exception as exc:  # ONNX Runtime's own classes derive from Exception and are not all public
        if backend == "ort-cpu":
            raise ArtifactError(
                f"{name}: ONNX Runtime cannot open it ({reason(exc)}). Export it again."
            ) from exc
        raise ConfigError(
            f"backend {backend} cannot run {name} ({reason(exc)}). Use --backend ort-cpu."
        ) from exc
    session.disable_fallback()
    used = {session.get_providers()[0]}
    if backend != "ort-cpu":
        used |= {part.ep_name for part in session.get_provider_graph_assignment_info()}
    if used != {provider}:
        others = ", ".join(sorted(used - {provider}))
        raise ConfigError(
            f"backend {backend} was asked for, but ONNX Runtime chose {others}. Use --backend ort-cpu."
        )
    return OrtEngine(session, backend=backend, provider=f"{provider}, ONNX Runtime {onnxruntime.__version__}")


def check_form(engine: OrtEngine, info: ModelInfo, *, name: str) -> None:
    """Raises ArtifactError unless the graph takes and gives what the manifest says."""
    size, width = info.encoder.recipe.size, info.encoder.width
    expected = [("images", "tensor(uint8)", [size, size, 3]), ("embedding", "tensor(float)", [width])]
    ports = [*engine.session.get_inputs(), *engine.session.get_outputs()]
    found = [(port.name, port.type, list(port.shape[1:])) for port in ports]
    if found != expected:
        raise ArtifactError(
            f"{name}: takes and gives {_words(found)}, but the manifest describes {_words(expected)}. Run `simclr export` again."
        )


def _words(ports: list[tuple[str, str, list[Any]]]) -> str:
    return ", ".join(f"{name} {kind}(N, {', '.join(map(str, shape))})" for name, kind, shape in ports)


def _provider_options(backend: str, *, size: int, max_batch: int, cache: str) -> dict[str, str]:
    if backend == "ort-cpu":
        return {}
    if backend == "ort-cuda":
        return {"use_tf32": "0"}  # on by default, and 10 bits of a float32 are no float32
    profile = {
        f"trt_profile_{kind}_shapes": f"images:{batch}x{size}x{size}x3"
        for kind, batch in (("min", 1), ("opt", min(32, max_batch)), ("max", max_batch))
    }  # without them it derives profiles from what it sees, and builds again at each new batch size
    kept = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": cache} if cache else {}
    timing = {"trt_timing_cache_enable": "1", "trt_timing_cache_path": cache} if cache else {}
    return profile | kept | timing


def _build(onnxruntime: Any) -> str:
    return "GPUs" if PROVIDERS["ort-cuda"] in onnxruntime.get_available_providers() else "the CPU"


def _advice(backend: str) -> str:
    """The CPU and the GPU build overwrite each other's files: one goes before the other comes."""
    install = "pip uninstall -y onnxruntime && pip install 'simclr-toolkit[gpu]'"
    return (
        f"Run: {install}, or use --backend ort-cpu."
        if backend == "ort-cuda"
        else "Use --backend ort-cuda or ort-cpu."
    )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", "cpu") from None
    return onnxruntime

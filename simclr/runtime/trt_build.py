"""A typed ONNX file -> a TensorRT plan. Runs nothing, keeps nothing, and needs no torch.

One path for 10.13 and 11: the network is strongly typed, so that precision is what the file says and no builder flag, all of which
11 took away. The module is a parameter: TensorRT-RTX has the same calls, and builds on machines without a GPU.
"""

from dataclasses import dataclass
from typing import Any

from simclr.errors import TensorRTError

Profiles = tuple[tuple[int, int, int], ...]
"""Smallest, best and largest batch of each."""

_LEVEL = 3
"""Builder optimisation level, 0 to 5: TensorRT's own default. 5 takes half an hour and more on a small GPU."""
_TYPICAL = 32


@dataclass(frozen=True)
class Built:
    plan: bytes
    """A plain serialised engine, as trtexec and Triton read it."""
    timing: bytes
    """The timing cache afterwards, which makes the next build on this GPU several times faster; empty without one."""


def profiles(max_batch: int) -> Profiles:
    """One for single queries, one for usual batches, one for the largest."""
    middle = min(_TYPICAL, max_batch)
    return ((1, 1, 1), (1, middle, min(2 * middle, max_batch)), (1, max_batch, max_batch))


def build(
    trt: Any,
    onnx: bytes,
    *,
    name: str,
    size: int,
    profiles: Profiles,
    fp32: bool,
    timing: bytes | None = None,
) -> Built:
    """Parse and build. `trt`: the module tensorrt, or one with its calls. `name` is for messages.

    `size`: pixels a side. `fp32`: convolutions keep all bits of float32 (no TF32). `timing`: a cache of the same version and
    GPU, empty for a new one; None: none is kept. Raises TensorRTError with the parser's or the builder's own words.
    """
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        errors = [_words(parser.get_error(i)) for i in range(parser.num_errors)]
        raise TensorRTError(
            f"{name}: TensorRT {trt.__version__} refuses it: {'; '.join(errors) or logger.last}. Use another precision, or report it."
        )
    config = builder.create_builder_config()
    config.builder_optimization_level = _LEVEL
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if fp32:
        config.clear_flag(trt.BuilderFlag.TF32)
    for batches in profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape("images", *((batch, size, size, 3) for batch in batches))
        config.add_optimization_profile(profile)
    if timing is not None:
        config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TensorRTError(
            f"{name}: TensorRT {trt.__version__} cannot build it here ({logger.last or 'no reason given'}). Free memory of the GPU, "
            "or use --backend ort-cuda."
        )
    return Built(bytes(plan), bytes(config.get_timing_cache().serialize()) if timing is not None else b"")


def _words(error: Any) -> str:
    at = f" at node {error.node_name()} ({error.node_operator()})" if error.node_name() else ""
    return " ".join(error.desc().split()) + at


def _logger(trt: Any) -> Any:
    """Keeps the last error in `last` instead of printing; TensorRT says why in its log alone."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())

    return Logger()

"""encoder.onnx in fp32 -> an INT8 file for the CPU or for TensorRT, calibrated on images. No verdict: that is parity's.

Input stays uint8 (N, size, size, 3) `images`, output float32 unit-length `embedding`; normalisation and the final norm
stay float32. Weights have one scale for each output channel, activations one for each tensor, from the smallest and largest
value on the calibration images; the form is QDQ, opset 18, one file, the same bytes every time.

  cpu   U8S8. Every convolution but the first, and the ReLUs and poolings between them, are 8-bit; sums of
        residual branches get no Q/DQ of their own: ONNX Runtime fuses those between two 8-bit layers
        (QLinearAdd), and the last one, before the pooling, stays float32.
  trt   S8S8 without zero points, biases in float32. Q/DQ only where a convolution or a residual sum reads, which is
        where TensorRT fuses them; nothing between a convolution, its sum and its ReLU.

The figures behind every choice are in docs/log.md.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto

from simclr.artifacts import write_atomically
from simclr.errors import ArtifactError, ImageError
from simclr.export.bias import correct_biases, own_parameters
from simclr.export.calibration import Seen, observe
from simclr.export.equalise import equalise

Target = Literal["cpu", "trt"]

MIN_IMAGES = 32
"""Fewer say little about ranges. 64 gave the recall of 512, but a smallest cosine of 0.989 in place of 0.998, since rare
values were cut off; 256 is a good number, more costs only time."""

LAYERS = ["Conv", "Gemm", "MatMul"]
CPU_OPERATORS = [*LAYERS, "Relu", "MaxPool", "AveragePool"]


def quantize(
    source: Path,
    out: Path,
    *,
    images: NDArray[np.uint8],
    target: Target,
    full_range: bool = False,
) -> None:
    """Write the INT8 form of the fp32 graph `source` to `out`, whole or not at all.

    `images`: (N, size, size, 3), preprocessed, as the graph takes them, N >= 32; 256 are good. `full_range`: 8-bit weights
    in the CPU file, for machines that surely have VNNI or AMX; elsewhere sums of two products saturate at 16 bits
    and the neighbours are lost, so that the default is 7 bits. The TensorRT file always has 8.
    Raises ImageError for images that cannot calibrate, ArtifactError if `source` is no fp32 graph of ours.
    """
    _check_images(images)
    model = _load(source)
    own_parameters(model)
    seen = observe(model, images)
    equalise(model, seen)
    correct_biases(model, _with_qdq(model, seen, target, full_range), seen)
    quantised = _with_qdq(model, seen, target, full_range)
    del quantised.graph.value_info[:]
    entries = {entry.key: entry.value for entry in model.metadata_props}
    bits = 8 if full_range or target == "trt" else 7
    entries["simclr.int8"] = f"{target}, {bits}-bit weights, {len(images)} calibration images"
    onnx.helper.set_model_props(quantised, entries)
    onnx.checker.check_model(quantised)
    write_atomically(out, lambda path: path.write_bytes(quantised.SerializeToString(deterministic=True)))


def _check_images(images: NDArray[np.uint8]) -> None:
    assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if len(images) < MIN_IMAGES:
        raise ImageError(
            f"{len(images)} calibration images are too few for INT8. Give at least {MIN_IMAGES}, better 256, "
            "of the kind you will embed."
        )
    if (images == images[:1]).all():
        raise ImageError(
            f"the {len(images)} calibration images are all the same. Give different ones, of the kind you will embed."
        )
    if (images == images[:, :1, :1]).all():
        raise ImageError(
            f"each of the {len(images)} calibration images is of one colour throughout. Give real ones, of the kind you will embed."
        )


def _load(source: Path) -> onnx.ModelProto:
    """The graph with the types of all its tensors."""
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(source, load_external_data=False))
    except (OSError, DecodeError, onnx.shape_inference.InferenceError) as exc:
        raise ArtifactError(f"{source}: cannot be read as ONNX ({exc}). Export it again.") from exc
    kinds = {node.op_type for node in model.graph.node}
    if "QuantizeLinear" in kinds or any(
        tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer
    ):
        raise ArtifactError(f"{source}: is not in fp32. INT8 is made from the fp32 file alone.")
    if kinds.isdisjoint(LAYERS):
        raise ArtifactError(f"{source}: has no convolution or matrix product to quantise.")
    return model


def _with_qdq(model: onnx.ModelProto, seen: Seen, target: Target, full_range: bool) -> onnx.ModelProto:
    """A copy of the graph with QuantizeLinear and DequantizeLinear in place; `model` is left as found."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    ranges = {
        # zero must have a level of its own, as paddings and ReLUs give it
        name: (
            np.minimum(seen.low[name].min(), np.float32(0)),
            np.maximum(seen.high[name].max(), np.float32(0)),
        )
        for name in seen.low
    }
    # the first convolution stays float32: its input holds 256 levels already, and half a level of shift is not noise
    first = next((node.name for node in model.graph.node if node.op_type == "Conv"), None)
    settings: dict[str, Any] = {"MatMulConstBOnly": True}
    if target == "trt":
        settings |= {"ActivationSymmetric": True, "QuantizeBias": False}
        settings |= {"OpTypesToExcludeOutputQuantization": LAYERS}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    with _quiet():
        quantizer = QDQQuantizer(
            copied,
            per_channel=True,
            reduce_range=target == "cpu" and not full_range,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if target == "cpu" else QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=[first] if first else [],
            op_types_to_quantize=CPU_OPERATORS if target == "cpu" else LAYERS,
            extra_options=settings,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    return quantised


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantiser talks through the root logger, which would also get a handler by it."""
    root, level = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)

"""What a graph's tensors hold on some images: ranges by channel, and mean feature maps. No quantising.

Takes an fp32 ONNX graph and (N, size, size, 3) uint8 images; gives a `Seen`. Memory is bounded by a batch of a few
images, however many there are: ONNX Runtime's own calibrators keep every tensor of every image, or (MinMax with
CalibMaxIntermediateOutputs, 1.32) forget what they drop.

Shape letters: N = images, C = channels, H, W.
"""

import copy
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.errors import ArtifactError

BATCH_PIXELS = 1 << 17
"""Pixels a batch: 128 images of 32 px, 2 of 224 px. A ResNet-50 then holds 0.3 GB of feature maps at a time."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """Smallest, largest and mean values over all images; keys are tensor names."""

    low: dict[str, Array]
    """(C,) for a feature map (N, C, H, W), else (1,)."""
    high: dict[str, Array]
    mean_map: dict[str, Array]
    """(C, H, W), for the inputs of convolutions only."""


def observe(model: onnx.ModelProto, images: NDArray[np.uint8]) -> Seen:
    """Run the graph on all images. Raises ArtifactError if a tensor is nowhere near finite.

    `model` carries the types of its tensors (`onnx.shape_inference`).
    """
    import onnxruntime

    names = float_tensors(model)
    maps = {node.input[0] for node in model.graph.node if node.op_type == "Conv"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        _with_outputs(model, names).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    low: dict[str, Array] = {}
    high: dict[str, Array] = {}
    total: dict[str, NDArray[np.float64]] = {}
    batch = max(1, BATCH_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), batch):
        values = session.run(names, {"images": images[start : start + batch]})
        for name, value in zip(names, values, strict=True):
            axes = (0, 2, 3) if value.ndim == 4 else None
            lowest, highest = np.atleast_1d(value.min(axes)), np.atleast_1d(value.max(axes))
            low[name] = np.minimum(low.get(name, lowest), lowest)
            high[name] = np.maximum(high.get(name, highest), highest)
            if name in maps and value.ndim == 4:
                total[name] = total.get(name, np.float64(0)) + value.sum(0, dtype=np.float64)
    for name in names:
        if not (np.isfinite(low[name]).all() and np.isfinite(high[name]).all()):
            raise ArtifactError(
                f"{name}: this tensor of the graph overflows on the calibration images. "
                "The encoder's weights are damaged or diverged; export another checkpoint."
            )
    return Seen(low, high, {name: (t / len(images)).astype(np.float32) for name, t in total.items()})


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the float32 tensors that nodes give, in the order of the graph."""
    typed = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
    outputs = [name for node in model.graph.node for name in node.output if name in typed]
    return [name for name in outputs if typed[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT]


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    model = copy.deepcopy(model)
    have = {value.name for value in model.graph.output}
    for name in names:
        if name not in have:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model

"""A graph of PyTorch -> one ONNX file whose bytes depend on the encoder and the library versions alone."""

import warnings
from collections import Counter
from pathlib import Path

import onnx
import torch

import simclr
from simclr.artifacts import EncoderInfo
from simclr.errors import ConfigError, reason
from simclr.export.graph import EncoderGraph

OPSET = {"fp32": 18, "fp16": 18, "bf16": 22}
"""Above 18, Resize and ReduceMax go to the CPU under ONNX Runtime's CUDA provider; a convolution in bf16 needs 22."""
DTYPE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def save_onnx(graph: EncoderGraph, info: EncoderInfo, path: Path, *, precision: str, max_batch: int) -> None:
    """Write a typed graph (fp32, fp16 or bf16): one file, no external data, no local paths, no dates."""
    size = info.recipe.size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's business
            program = torch.onnx.export(
                graph,
                (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
                dynamo=True,
                verbose=False,
                opset_version=OPSET[precision],
                input_names=["images"],
                output_names=["embedding"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=max_batch)}},
            )
    except Exception as exc:  # it runs the model's own Python, which may raise anything
        raise ConfigError(
            f"encoder {info.name} cannot be exported as {precision}: {reason(exc)}. Use another --precision or encoder."
        ) from exc
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces with local paths
    program.model.metadata_props.update(
        {
            "simclr.identity": info.identity,
            "simclr.encoder": info.name,
            "simclr.precision": precision,
            "simclr.version": simclr.__version__,
            "simclr.input": f"images: (batch, {size}, {size}, 3) uint8 RGB, not normalised",
            "simclr.output": f"embedding: (batch, {info.width}) float32, unit length",
        }
    )
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path))
    if mixed := _mixed(onnx.load(path)):
        raise ConfigError(
            f"encoder {info.name} cannot be exported as {precision}: {mixed} has weights of another type, as a batch norm that "
            "cannot be folded leaves them. Leave this precision out."
        )


def _mixed(model: onnx.ModelProto) -> str:
    """A convolution whose weight and bias differ in type, which no typed runtime takes; empty where there is none."""
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    wanted = Counter(
        kinds.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"
    ).most_common(1)
    for node in model.graph.node:
        if node.op_type == "Conv" and {kinds[name] for name in node.input[1:] if name in kinds} - {
            wanted[0][0]
        }:
            return str(node.name)
    return ""

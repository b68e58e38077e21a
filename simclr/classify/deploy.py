"""An encoder and a linear probe -> one ONNX graph: uint8 images in, probabilities of classes out. Checked against both.

The probe's weights hold its standardising and its temperature, so that what joins the graph is one Gemm and a Softmax.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import simclr
from simclr.artifacts import ModelInfo, write_atomically
from simclr.classify.calibration import softmax
from simclr.classify.classifier import Classifier
from simclr.cpus import available_cpus
from simclr.errors import ConfigError, ExportMismatch, MissingExtra
from simclr.runtime.model_files import FILE_OF, open_folder, read_model
from simclr.runtime.ort import open_ort
from simclr.runtime.probe import read_probe

TOLERANCE = 1e-4
"""Largest difference of any probability between the joined graph and its parts; kernels add in another order."""


def join(classifier: Classifier, model: Path, out: Path, *, precision: str = "fp32") -> float:
    """Write the graph; returns the largest difference of a probability that was found in its check.

    Raises ConfigError (kNN, a precision that was not exported), EncoderMismatch, ExportMismatch (nothing is written then), MissingExtra.
    """
    refuse_vote(classifier.info.method)
    folder, info = open_folder(model)
    classifier.refuse_other(info.encoder.identity, folder)
    if FILE_OF.get(precision) not in info.files:
        there = ", ".join(file.precision for file in info.files.values())
        raise ConfigError(
            f"precision {precision}: not in {folder}, which has {there}. Export it, or use one of these."
        )
    encoder = read_model(folder, info, precision)
    joined = _joined(encoder, classifier, info, precision)
    worst = _largest_difference(joined, encoder, classifier, read_probe(folder, info)[0], str(out))
    if not worst <= TOLERANCE:
        raise ExportMismatch(
            f"{out}: gives probabilities that differ by {worst:.2g} from those of encoder and classifier one after the other, more than {TOLERANCE:g}. "
            "It is not written; use another --precision."
        )
    write_atomically(out, lambda temporary: temporary.write_bytes(joined))
    return worst


def refuse_vote(method: str) -> None:
    """Raises ConfigError for kNN."""
    if method != "probe":
        raise ConfigError(
            "a vote among neighbours has no graph of its own. Fit a linear probe: simclr classify fit STORE --method probe"
        )


def _joined(encoder: bytes, classifier: Classifier, info: ModelInfo, precision: str) -> bytes:
    onnx = _onnx()
    graph_of = onnx.helper
    model: Any = onnx.load_from_string(encoder)
    (embedding,) = (output.name for output in model.graph.output)
    scale = np.float32(1 / classifier.info.temperature)
    for name, tensor in (
        ("class_weight", classifier.tensors["weight"]),
        ("class_bias", classifier.tensors["bias"]),
    ):
        model.graph.initializer.append(onnx.numpy_helper.from_array(tensor * scale, name))
    model.graph.node.extend(
        [
            graph_of.make_node(
                "Gemm", [embedding, "class_weight", "class_bias"], ["class_logits"], name="classify", transB=1
            ),
            graph_of.make_node("Softmax", ["class_logits"], ["probabilities"], name="softmax", axis=-1),
        ]
    )
    batch = model.graph.output[0].type.tensor_type.shape.dim[0]
    del model.graph.output[:]
    output = graph_of.make_tensor_value_info(
        "probabilities",
        onnx.TensorProto.FLOAT,
        [batch.dim_param or batch.dim_value, len(classifier.info.classes)],
    )
    model.graph.output.append(output)
    size = info.encoder.recipe.size
    said = {
        "simclr.identity": info.encoder.identity,
        "simclr.encoder": info.encoder.name,
        "simclr.precision": precision,
        "simclr.version": simclr.__version__,
        "simclr.classes": json.dumps(classifier.info.classes, ensure_ascii=False),
        "simclr.recipe": json.dumps(info.encoder.recipe.to_dict(), sort_keys=True),
        "simclr.input": f"images: (batch, {size}, {size}, 3) uint8 RGB, not normalised",
        "simclr.output": f"probabilities: (batch, {len(classifier.info.classes)}) float32, in the order of simclr.classes",
    }
    onnx.helper.set_model_props(model, said)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _largest_difference(
    joined: bytes, encoder: bytes, classifier: Classifier, images: NDArray[np.uint8], name: str
) -> float:
    """Over the probe's images and noise, alone and in batches."""
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, images.shape, np.uint8)
    both, apart = (
        open_ort(data, name=name, backend="ort-cpu", threads=available_cpus()).session
        for data in (joined, encoder)
    )
    worst = 0.0
    for pixels in (images, images[:1], noise):
        expected = softmax(classifier.logits(apart.run(None, {"images": pixels})[0]))
        found = both.run(None, {"images": pixels})[0]
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise MissingExtra("onnx", "classify") from None
    return onnx

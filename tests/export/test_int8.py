"""INT8 files: their form, their numbers, and that they are the same every time."""

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from simclr.errors import ArtifactError, ImageError
from simclr.export import export_model
from simclr.export.bias import correct_biases, dequantised_weights, own_parameters
from simclr.export.calibration import observe
from simclr.export.equalise import equalise
from simclr.export.int8 import quantize

Array = np.ndarray


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """encoder.onnx of a small ResNet, random weights."""
    out = tmp_path_factory.mktemp("int8") / "export"
    return export_model("timm:test_resnet", out=out, image_size=32, pretrained=False).folder / "encoder.onnx"


@pytest.fixture(scope="module")
def images() -> Array:
    """80 smooth images at 32 pixels."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (80, 4, 4, 3))
    return np.clip(small.repeat(8, 1).repeat(8, 2) + rng.normal(0, 9, (80, 32, 32, 3)), 0, 255).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def files(source: Path, images: Array, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("quantised")
    for target in ("cpu", "trt"):
        quantize(source, out / f"{target}.onnx", images=images, target=target)
    quantize(source, out / "full.onnx", images=images, target="cpu", full_range=True)
    return {path.stem: path for path in out.iterdir()}


def run(path: Path | bytes, images: Array) -> Array:
    data = path if isinstance(path, bytes) else path.read_bytes()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(
        None, {"images": images}
    )[0]


def quantised_weights(path: Path) -> list[Array]:
    """Of all convolutions that have 8-bit weights."""
    model = onnx.load(path)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = [
        makers[n.input[1]].input[0] for n in model.graph.node if n.op_type == "Conv" and n.input[1] in makers
    ]
    return [numpy_helper.to_array(stored[name]) for name in found]


# --- form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_ends_opset_and_notes_are_those_of_the_source(
    files: dict[str, Path], source: Path, target: str
) -> None:
    model, plain = onnx.load(files[target]), onnx.load(source)
    assert list(model.graph.input) == list(plain.graph.input)
    assert list(model.graph.output) == list(plain.graph.output)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 18
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert (
        notes.pop("simclr.int8")
        == f"{target}, {7 if target == 'cpu' else 8}-bit weights, 80 calibration images"
    )
    assert notes == {entry.key: entry.value for entry in plain.metadata_props}


def test_weights_for_the_cpu_have_seven_bits_unless_asked_for_eight(files: dict[str, Path]) -> None:
    """Without VNNI two products are added in 16 bits: 255 * 64 * 2 fits, 255 * 127 * 2 does not."""
    largest = {
        name: max(int(np.abs(w.astype(int)).max()) for w in quantised_weights(p)) for name, p in files.items()
    }
    assert largest["cpu"] in (63, 64) and largest["full"] == 127 and largest["trt"] == 127
    assert 255 * largest["cpu"] * 2 <= 32767 < 255 * largest["full"] * 2


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_each_output_channel_of_a_weight_has_its_own_scale(files: dict[str, Path], target: str) -> None:
    for weight in quantised_weights(files[target]):
        most = np.abs(weight.astype(int)).reshape(len(weight), -1).max(1)
        assert (
            (most >= (63 if target == "cpu" else 127)) | (most == 0)
        ).all()  # every channel uses its whole range


def test_the_cpu_file_has_unsigned_activations_and_the_other_signed_ones_around_zero_and_float_biases(
    files: dict[str, Path],
) -> None:
    for target, kind in (("cpu", TensorProto.UINT8), ("trt", TensorProto.INT8)):
        model = onnx.load(files[target])
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        zeros = [stored[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert zeros and {zero.data_type for zero in zeros} == {kind}
        if target == "trt":
            assert all((numpy_helper.to_array(zero) == 0).all() for zero in zeros)
            biases = [node.input[2] for node in model.graph.node if node.op_type == "Conv"]
            assert {stored[name].data_type for name in biases} == {TensorProto.FLOAT}


def test_the_first_convolution_and_the_length_stay_float(files: dict[str, Path]) -> None:
    for path in files.values():
        model = onnx.load(path)
        stored = {tensor.name for tensor in model.graph.initializer}
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        assert first.input[1] in stored  # and no DequantizeLinear before it
        assert model.graph.node[-1].op_type == "Div"


# --- the same every time -------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_another_process_in_another_folder_writes_the_same_bytes_and_nothing_else(
    files: dict[str, Path], source: Path, images: Array, tmp_path: Path, target: str
) -> None:
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "out").mkdir()
    program = (
        "import sys, numpy as np; from pathlib import Path; from simclr.export.int8 import quantize; "
        "quantize(Path(sys.argv[1]), Path('out/other name.onnx'), images=np.load('images.npy'), target=sys.argv[2])"
    )
    environment = {"PATH": "", "TMPDIR": str(tmp_path / "temporary"), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program, str(source), target]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    (written,) = (tmp_path / "out").iterdir()
    assert written.read_bytes() == files[target].read_bytes()
    assert [
        path.name for path in (tmp_path / "temporary").rglob("*") if "onnx" in path.name or "ort" in path.name
    ] == []


def test_the_source_and_the_loggers_stay_as_they_were(source: Path, images: Array, tmp_path: Path) -> None:
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    handlers, level = list(logging.getLogger().handlers), logging.root.manager.disable
    quantize(source, tmp_path / "a.onnx", images=images, target="cpu")
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    assert (logging.getLogger().handlers, logging.root.manager.disable) == (handlers, level)


# --- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cpu", "trt", "full"])
def test_vectors_stay_near_those_of_fp32_and_have_unit_length(
    files: dict[str, Path], source: Path, images: Array, target: str
) -> None:
    found, expected = run(files[target], images), run(source, images)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert 0.99 < (found * expected).sum(1).min() < 0.9999999  # near, and really quantised


def tiny(weight: Array, bias: Array | None, weight2: Array) -> onnx.ModelProto:
    """images -> Cast, Transpose, Conv, ReLU, Conv -> (N, C, 1, 1): as small as a graph with two layers is."""
    names = ["b", "w", *(["bias"] if bias is not None else [])]
    stored = {"w": weight, "w2": weight2} | ({"bias": bias} if bias is not None else {})
    nodes = [
        helper.make_node("Cast", ["images"], ["a"], name="cast", to=1),
        helper.make_node("Transpose", ["a"], ["b"], name="transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", names, ["c"], name="first"),
        helper.make_node("Relu", ["c"], ["d"], name="relu"),
        helper.make_node("Conv", ["d", "w2"], ["embedding"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 2, 2, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", len(weight2), 1, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


@pytest.fixture
def two_layers() -> tuple[onnx.ModelProto, Array]:
    rng = np.random.default_rng(3)
    scales = np.array([1, 0.1, 3, 0.02])[:, None, None, None]  # channels of very different ranges
    weight = rng.normal(size=(4, 3, 1, 1)) * scales
    model = tiny(weight, 100 * np.abs(weight).sum((1, 2, 3)), rng.normal(size=(5, 4, 2, 2)))
    return model, rng.integers(0, 256, (64, 2, 2, 3), dtype=np.uint8)


def test_what_is_seen_is_what_numpy_sees(two_layers: tuple[onnx.ModelProto, Array]) -> None:
    model, images = two_layers
    seen = observe(model, images)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    maps = (
        np.einsum("nhwc,oc->nohw", images.astype(np.float32), stored["w"][..., 0, 0])
        + stored["bias"][:, None, None]
    )
    relu = np.maximum(maps, 0)
    assert np.allclose(seen.low["c"], maps.min((0, 2, 3)), rtol=1e-5)
    assert np.allclose(seen.high["d"], relu.max((0, 2, 3)), rtol=1e-5)
    assert np.allclose(seen.mean_map["d"], relu.mean(0), rtol=1e-5)


def test_equalising_changes_nothing_that_is_computed_and_evens_the_channels(
    two_layers: tuple[onnx.ModelProto, Array],
) -> None:
    model, images = two_layers
    own_parameters(model)
    before, seen = run(model.SerializeToString(), images), observe(model, images)
    spread = seen.high["d"].max() / seen.high["d"].min()
    equalise(model, seen)
    assert np.allclose(run(model.SerializeToString(), images), before, rtol=1e-4, atol=1e-3)
    assert np.allclose(observe(model, images).high["d"], seen.high["d"], rtol=1e-5)
    assert seen.high["d"].max() / seen.high["d"].min() < spread / 3


def test_a_map_that_something_else_reads_is_not_scaled(two_layers: tuple[onnx.ModelProto, Array]) -> None:
    """A mean over channels does not commute with a factor for each."""
    model, images = two_layers
    axes = numpy_helper.from_array(np.array([1]), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.insert(
        4, helper.make_node("ReduceMean", ["d", "axes"], ["other"], name="mean", keepdims=1)
    )
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["batch", 1, 2, 2]))
    model = onnx.shape_inference.infer_shapes(model)
    own_parameters(model)
    before = model.SerializeToString()
    equalise(model, observe(model, images))
    assert model.SerializeToString() == before


def test_corrected_biases_bring_the_mean_output_back(
    two_layers: tuple[onnx.ModelProto, Array], tmp_path: Path
) -> None:
    """The slow twin: the mean of what the rounded weights give, over all images."""
    model, images = two_layers
    own_parameters(model)
    seen = observe(model, images)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    second = next(node for node in model.graph.node if node.name == "second")
    exact = run(model.SerializeToString(), images).mean(0)
    weight = numpy_helper.to_array(stored[second.input[1]])
    coarse = (np.round(weight / 0.5) * 0.5).astype(np.float32)
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    for node in quantised.graph.node:
        if node.name == "second":
            scale = np.full(len(weight), 0.5, np.float32)
            values = {
                "q": np.round(weight / 0.5).astype(np.int8),
                "s": scale,
                "z": np.zeros(len(weight), np.int8),
            }
            quantised.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in values.items())
            node.input[1] = "dequantised"
    quantised.graph.node.insert(
        0, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dequantised"], axis=0)
    )
    assert np.allclose(dequantised_weights(quantised)["second"], coarse)
    correct_biases(model, quantised, seen)
    stored[second.input[1]].CopyFrom(numpy_helper.from_array(coarse, second.input[1]))
    assert np.allclose(run(model.SerializeToString(), images).mean(0), exact, rtol=1e-3, atol=1e-2)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda images: images[:31],
            "31 calibration images are too few for INT8. Give at least 32, better 256",
        ),
        (lambda images: images[:1].repeat(40, 0), "the 40 calibration images are all the same"),
        (
            lambda images: np.ascontiguousarray(np.broadcast_to(images[:, :1, :1], images.shape)),
            "of one colour throughout",
        ),
    ],
    ids=["few", "same", "flat"],
)
def test_images_that_cannot_calibrate_are_refused(
    source: Path, images: Array, tmp_path: Path, make, said: str
) -> None:
    with pytest.raises(ImageError, match=said):
        quantize(source, tmp_path / "a.onnx", images=make(images), target="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_quantised_already_is_refused(
    files: dict[str, Path], images: Array, tmp_path: Path
) -> None:
    with pytest.raises(
        ArtifactError, match=r"cpu.onnx: is not in fp32\. INT8 is made from the fp32 file alone\.$"
    ):
        quantize(files["cpu"], tmp_path / "a.onnx", images=images, target="trt")


def test_a_damaged_file_is_named(source: Path, images: Array, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(source.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/cut.onnx: cannot be read as ONNX"):
        quantize(tmp_path / "cut.onnx", tmp_path / "a.onnx", images=images, target="cpu")


def test_weights_that_overflow_are_found_out(two_layers: tuple[onnx.ModelProto, Array]) -> None:
    model, images = two_layers
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e37), "w"))
    with pytest.raises(ArtifactError, match="overflows on the calibration images"):
        observe(model, images)

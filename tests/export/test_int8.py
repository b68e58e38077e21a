"""The INT8 files: their form, and that they compute what their numbers say."""

import copy
import hashlib
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from simclr.artifacts import EncoderInfo
from simclr.encoder import weights_sha256
from simclr.errors import ArtifactError, ImageError
from simclr.export import int8
from simclr.export.bias import dequantised_weights, own_parameters
from simclr.export.calibration import observe
from simclr.export.equalise import equalise
from simclr.export.folder import write_export
from simclr.export.int8 import quantize
from simclr.preprocess import Recipe

Images = NDArray[np.uint8]


class Residual(nn.Module):
    """A small residual network: a first layer, a block with an identity, a block with a shortcut convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.three, self.four = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.short = nn.Conv2d(8, 16, 1, stride=2)
        with torch.no_grad():
            self.one.weight *= torch.logspace(-1, 1, 12)[
                :, None, None, None
            ]  # channels of very different ranges

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.two(F.relu(self.one(x))) + x)
        x = F.relu(self.four(F.relu(self.three(x))) + self.short(x))
        return x.mean((2, 3))


def pictures(count: int, *, seed: int, size: int = 16) -> Images:
    """Soft blobs of colour, no two alike."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 4, 4)))
    fine = F.interpolate(coarse, size=(size, size), mode="bicubic").numpy()
    noisy = fine + rng.normal(0, 8, fine.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = Residual().eval()
    info = EncoderInfo(
        name="residual",
        small_stem=False,
        width=16,
        weights_sha256=weights_sha256(model.state_dict()),
        recipe=Recipe(size=16, crop=1.0),
    )
    return write_export(model, info, tmp_path_factory.mktemp("int8") / "export").folder / "encoder.onnx"


@pytest.fixture(scope="module")
def cpu(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cpu") / "cpu.onnx"
    quantize(source, out, images=pictures(64, seed=1), target="cpu")
    return out


@pytest.fixture(scope="module")
def trt(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trt") / "trt.onnx"
    quantize(source, out, images=pictures(64, seed=1), target="trt")
    return out


def run(model: onnx.ModelProto | Path, images: Images, *names: str, exact: bool = False) -> list[np.ndarray]:
    """The outputs named; `exact` computes each node as ONNX defines it, without INT8 kernels."""
    model = onnx.load(model) if isinstance(model, Path) else copy.deepcopy(model)
    have = {value.name for value in model.graph.output}
    model.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n not in have
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(list(names or ["embedding"]), {"images": images})


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def integer_weights(model: onnx.ModelProto) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, scale) of every quantised convolution."""
    values, made_by = stored(model), makers(model)
    return [
        (values[made_by[node.input[1]].input[0]], values[made_by[node.input[1]].input[1]])
        for node in convolutions(model)
        if node.input[1] in made_by
    ]


def neighbours(vectors: np.ndarray, k: int) -> np.ndarray:
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    return np.argsort(-similar, axis=1)[:, :k]


# --- the form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_input_and_output_stay_what_they_were(
    source: Path, target: str, request: pytest.FixtureRequest
) -> None:
    before, after = onnx.load(source), onnx.load(request.getfixturevalue(target))
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 18)]
    assert all(not tensor.external_data for tensor in after.graph.initializer)


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_all_convolutions_but_the_first_have_8_bit_weights_and_inputs(
    target: str, request: pytest.FixtureRequest
) -> None:
    model = onnx.load(request.getfixturevalue(target))
    made_by = makers(model)
    kinds = [
        [made_by[name].op_type if name in made_by else "stored" for name in node.input[:2]]
        for node in convolutions(model)
    ]
    assert kinds[0] == ["Add", "stored"]  # the normalisation, and float32 weights
    assert kinds[1:] == [["DequantizeLinear", "DequantizeLinear"]] * 5


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_weights_have_a_scale_for_each_output_channel(target: str, request: pytest.FixtureRequest) -> None:
    weights = integer_weights(onnx.load(request.getfixturevalue(target)))
    assert [(w.dtype, w.shape[0], s.shape) for w, s in weights] == [
        (np.int8, n, (n,)) for n in (12, 8, 16, 16, 16)
    ]


def test_weights_for_the_cpu_use_seven_bits_and_all_of_them(cpu: Path) -> None:
    for weight, _ in integer_weights(onnx.load(cpu)):
        assert (np.abs(weight.astype(int)).reshape(len(weight), -1).max(1) == 64).all()


def test_the_full_range_and_tensorrt_use_eight_bits(source: Path, trt: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "full.onnx", images=pictures(64, seed=1), target="cpu", full_range=True)
    for path in (tmp_path / "full.onnx", trt):
        for weight, _ in integer_weights(onnx.load(path)):
            assert (np.abs(weight.astype(int)).reshape(len(weight), -1).max(1) == 127).all()


def test_activations_are_unsigned_on_the_cpu_and_signed_without_zero_points_on_tensorrt(
    cpu: Path, trt: Path
) -> None:
    def zero_points(path: Path) -> list[np.ndarray]:
        model = onnx.load(path)
        values = stored(model)
        return [values[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]

    assert {point.dtype for point in zero_points(cpu)} == {np.dtype(np.uint8)}
    assert {(point.dtype, int(point)) for point in zero_points(trt)} == {(np.dtype(np.int8), 0)}


def test_biases_for_tensorrt_stay_float32_and_its_sums_read_8_bits(trt: Path) -> None:
    model = onnx.load(trt)
    values, made_by = stored(model), makers(model)
    assert {values[node.input[2]].dtype for node in convolutions(model)} == {np.dtype(np.float32)}
    sums = [
        [made_by[name].op_type for name in node.input]
        for node in model.graph.node
        if node.op_type == "Add" and all(name in made_by for name in node.input)
    ]
    assert sorted(map(sorted, sums)) == [["Conv", "Conv"], ["Conv", "DequantizeLinear"]]


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_the_pooling_and_the_norm_stay_float32(target: str, request: pytest.FixtureRequest) -> None:
    model = onnx.load(request.getfixturevalue(target))
    names = [node.op_type for node in model.graph.node]
    tail = names[names.index("ReduceMean") - 1 :]
    assert tail[0] == "Relu" and "DequantizeLinear" not in tail and "QuantizeLinear" not in tail


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_what_the_source_says_of_itself_is_kept(
    source: Path, target: str, request: pytest.FixtureRequest
) -> None:
    before, after = (
        {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        for path in (source, request.getfixturevalue(target))
    )
    bits = {"cpu": 7, "trt": 8}[target]
    assert before["simclr.identity"]
    assert after == before | {"simclr.int8": f"{target}, {bits}-bit weights, 64 calibration images"}


# --- the bytes -----------------------------------------------------------------------------------


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from simclr.export.int8 import quantize
quantize(Path(sys.argv[1]), Path(sys.argv[2]), images=np.load(sys.argv[3]), target="cpu")
"""


def test_another_process_with_another_hash_seed_and_folder_gives_the_same_bytes(
    source: Path, cpu: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", pictures(64, seed=1))
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"PYTHONHASHSEED": "77", "TMPDIR": str(tmp_path / "elsewhere")}
    again = tmp_path / "again.onnx"
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(source), str(again), str(tmp_path / "images.npy")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(cpu.read_bytes()).digest()
    left = {path.name for path in (tmp_path / "elsewhere").iterdir()}
    assert left <= {".ses"}  # a number of its own that ONNX Runtime writes when it is imported


def test_no_path_is_in_the_file_and_nothing_lies_beside_it(source: Path, cpu: Path, trt: Path) -> None:
    for path in (cpu, trt):
        assert [entry.name for entry in path.parent.iterdir()] == [path.name]
        for text in (str(source.parent), str(path.parent), os.getcwd(), "/tmp", ".py"):
            assert text.encode() not in path.read_bytes()


def test_the_source_is_left_as_found(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    quantize(source, tmp_path / "a.onnx", images=pictures(32, seed=2), target="trt")
    assert source.read_bytes() == before


def test_the_users_logging_is_left_as_found(source: Path, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = list(root.handlers), logging.root.manager.disable
    quantize(source, tmp_path / "a.onnx", images=pictures(32, seed=2), target="cpu")
    assert (list(root.handlers), logging.root.manager.disable) == before


def test_a_failure_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(onnx.checker, "check_model", fails)
    with pytest.raises(RuntimeError):
        quantize(source, tmp_path / "a.onnx", images=pictures(32, seed=2), target="cpu")
    assert list(tmp_path.iterdir()) == []


# --- what it computes ----------------------------------------------------------------------------


def test_the_cpu_file_computes_what_numpy_computes_from_its_integers(cpu: Path) -> None:
    """One convolution in whole numbers, by hand: x = s (q - z), w = t r, y = s t sum(q - z) r + bias, then to 8 bits."""
    model = onnx.load(cpu)
    node, values, made_by = convolutions(model)[1], stored(model), makers(model)
    images = pictures(4, seed=9)
    dequantise = made_by[node.input[0]]
    quantise = made_by[dequantise.input[0]]
    x, y = run(model, images, quantise.input[0], node.output[0], exact=True)
    scale, zero = values[quantise.input[1]], int(values[quantise.input[2]])
    q = np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64) - zero
    weight = made_by[node.input[1]]
    r, t = values[weight.input[0]].astype(np.int64), values[weight.input[1]]
    bias = made_by[node.input[2]]
    b, b_scale = values[bias.input[0]].astype(np.int64), values[bias.input[1]]
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, r)
    by_hand = sums * (scale * t)[None, :, None, None] + (b * b_scale)[None, :, None, None]
    assert np.allclose(y, by_hand, rtol=1e-4, atol=1e-4)


def test_weights_are_those_of_the_equalised_graph_rounded_to_the_nearest_level(
    source: Path, cpu: Path
) -> None:
    model = int8._load(source)
    own_parameters(model)
    equalise(model, observe(model, pictures(64, seed=1)))
    values, found = stored(model), dequantised_weights(onnx.load(cpu))
    for node in convolutions(model)[1:]:
        weight = values[node.input[1]]
        step = np.abs(weight).reshape(len(weight), -1).max(1)[:, None, None, None] / 64
        assert np.allclose(found[node.name], np.rint(weight / step) * step, atol=1e-6)


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_int8_kernels_agree_with_the_definition_of_the_file(
    target: str, request: pytest.FixtureRequest
) -> None:
    path, images = request.getfixturevalue(target), pictures(16, seed=8)
    assert np.allclose(run(path, images)[0], run(path, images, exact=True)[0], atol=4e-3)


@pytest.mark.parametrize(("target", "cosine", "kept"), [("cpu", 0.9997, 0.94), ("trt", 0.9997, 0.93)])
def test_vectors_have_unit_length_and_their_neighbours_are_those_of_fp32(
    source: Path, target: str, cosine: float, kept: float, request: pytest.FixtureRequest
) -> None:
    images = pictures(400, seed=5)
    expected, found = run(source, images)[0], run(request.getfixturevalue(target), images, exact=True)[0]
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found * expected).sum(1).min() > cosine
    same = [
        len(np.intersect1d(a, b))
        for a, b in zip(neighbours(expected, 10), neighbours(found, 10), strict=True)
    ]
    assert np.mean(same) / 10 > kept


def test_any_batch_will_do(source: Path, cpu: Path) -> None:
    images = pictures(7, seed=6)
    one_by_one = np.concatenate([run(cpu, images[i : i + 1])[0] for i in range(7)])
    assert np.allclose(run(cpu, images)[0], one_by_one, atol=1e-6)


# --- the steps of our own ------------------------------------------------------------------------


def test_ranges_and_mean_maps_are_those_of_all_images_at_once(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = int8._load(source), pictures(33, seed=3)
    monkeypatch.setattr("simclr.export.calibration.BATCH_PIXELS", 5 * 16 * 16)  # batches of 5, the last of 3
    seen = observe(model, images)
    node = convolutions(model)[2]
    value = run(model, images, node.input[0])[0]
    assert np.allclose(seen.low[node.input[0]], value.min((0, 2, 3)), atol=1e-5)
    assert np.allclose(seen.high[node.input[0]], value.max((0, 2, 3)), rtol=1e-5)
    assert np.allclose(seen.mean_map[node.input[0]], value.mean(0), rtol=1e-4, atol=1e-5)


def test_equalising_changes_no_vector_and_its_ranges_are_those_of_the_new_graph(source: Path) -> None:
    model, images = int8._load(source), pictures(40, seed=3)
    own_parameters(model)
    seen = observe(model, images)
    wide = seen.high["relu_1"].max() / np.median(seen.high["relu_1"])
    equalise(model, seen)
    again = observe(model, images)
    assert np.allclose(run(model, images)[0], run(source, images)[0], atol=1e-5)
    assert wide > 2 * seen.high["relu_1"].max() / np.median(seen.high["relu_1"])
    for name, high in again.high.items():
        assert np.allclose(seen.high[name], high, rtol=1e-3, atol=1e-4), name
    for name, mean in again.mean_map.items():
        assert np.allclose(seen.mean_map[name], mean, rtol=1e-3, atol=1e-4), name


def test_corrected_biases_take_away_the_mean_error_of_rounding_the_weights(source: Path) -> None:
    model, images = int8._load(source), pictures(64, seed=1)
    own_parameters(model)
    plain, seen = copy.deepcopy(model), observe(model, images)
    draft = int8._with_qdq(model, seen, "cpu", False)
    int8.correct_biases(model, draft, seen)
    rounded = dequantised_weights(draft)
    for i, name in enumerate([node.name for node in convolutions(plain)]):
        if name not in rounded:
            continue
        node = convolutions(plain)[i]
        x = torch.from_numpy(run(plain, images, node.input[0])[0])
        settings = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        errors = []
        for biases in (stored(plain), stored(model)):
            true = F.conv2d(
                x,
                torch.from_numpy(stored(plain)[node.input[1]]),
                torch.from_numpy(stored(plain)[node.input[2]]),
                settings["strides"],
                settings["pads"][:2],
            )
            got = F.conv2d(
                x,
                torch.from_numpy(rounded[name]),
                torch.from_numpy(biases[node.input[2]]),
                settings["strides"],
                settings["pads"][:2],
            )
            errors.append(float((got - true).mean((0, 2, 3)).abs().max()))
        assert errors[0] > 1e-3 and errors[1] < errors[0] / 100


def test_a_weight_that_two_convolutions_share_is_copied_and_a_missing_bias_added() -> None:
    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="a"),
        helper.make_node("Conv", ["y", "w"], ["z"], name="b"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xz"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    own_parameters(model)
    used = Counter(name for node in model.graph.node for name in node.input[1:])
    assert set(used.values()) == {1} and len(used) == 4
    assert (stored(model)[model.graph.node[1].input[1]] == 1).all()
    assert (stored(model)[model.graph.node[0].input[2]] == np.zeros(3)).all()
    onnx.checker.check_model(model)


# --- what cannot be quantised --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(31, seed=1), "^31 calibration images are too few for INT8. Give at least 32, better 256"),
        (
            np.repeat(pictures(1, seed=1), 40, axis=0),
            "^the 40 calibration images are all the same. Give diff",
        ),
        (
            np.repeat(np.repeat(pictures(40, seed=1)[:, :1, :1], 16, axis=1), 16, axis=2),
            "^each of the 40 calibration images is of one colour throughout. Give real ones",
        ),
    ],
)
def test_images_that_cannot_calibrate_are_refused(
    source: Path, tmp_path: Path, images: Images, message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        quantize(source, tmp_path / "a.onnx", images=images, target="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_quantised_already_is_refused(cpu: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=f"^{cpu}: is not in fp32. INT8 is made from the fp32 file alone.$"
    ):
        quantize(cpu, tmp_path / "a.onnx", images=pictures(32, seed=1), target="trt")


@pytest.mark.parametrize("content", [b"nothing of the kind", None])
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    source = tmp_path / "encoder.onnx"
    if content:
        source.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"^{source}: cannot be read as ONNX .*Export it again.$"):
        quantize(source, tmp_path / "a.onnx", images=pictures(32, seed=1), target="cpu")


def test_weights_that_overflow_are_found_out(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source)
    weight = next(t for t in model.graph.initializer if t.name == convolutions(model)[2].input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(3e38), weight.name))
    onnx.save(model, tmp_path / "encoder.onnx")
    with pytest.raises(ArtifactError, match="overflows on the calibration images"):
        quantize(tmp_path / "encoder.onnx", tmp_path / "a.onnx", images=pictures(32, seed=1), target="cpu")


@pytest.mark.parametrize("target", ["cpu", "trt"])
def test_an_encoder_that_standardises_its_weights_is_quantised_where_it_can_be(
    tmp_path: Path, target: str
) -> None:
    """NFNets compute the weights of their convolutions, so that no stored weight can be equalised or corrected."""
    from simclr.export import export_model

    folder = export_model("timm:test_nfnet", out=tmp_path / "e", image_size=64, pretrained=False).folder
    images = pictures(40, seed=1, size=64)
    quantize(folder / "encoder.onnx", tmp_path / "q.onnx", images=images, target=target)
    vectors = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )[0]
        for path in (folder / "encoder.onnx", tmp_path / "q.onnx")
    ]
    assert 0.97 < (vectors[0] * vectors[1]).sum(1).min() < 0.99999

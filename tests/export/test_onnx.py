import json
import os
import site
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr.artifacts import EncoderInfo, ModelInfo, StoreInfo, file_sha256
from simclr.encoder import build_encoder, default_recipe, save_encoder, weights_sha256
from simclr.errors import ConfigError, ExportMismatch, ImageError
from simclr.export import ExportConfig, export_model
from simclr.export import folder as export_module
from simclr.export.folder import write_export
from simclr.export.graph import EncoderGraph
from simclr.export.pictures import drawn_images
from simclr.preprocess import Recipe
from simclr.runtime import Encoder

FILES = {"encoder.onnx", "manifest.json", "probe.npz", "FIDELITY.md"}


class Mixed(nn.Module):
    """A small encoder that exports in a moment: one convolution with its norm, pooled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).abs().mean((2, 3))


def describe(model: nn.Module) -> EncoderInfo:
    return EncoderInfo(
        name="mixed",
        small_stem=False,
        width=6,
        weights_sha256=weights_sha256(model.state_dict()),
        recipe=Recipe(size=8, crop=1.0),
    )


def export_mixed(out: Path, **settings: object) -> Path:
    model = Mixed().eval()
    return write_export(model, describe(model), out, ExportConfig(**settings)).folder


def contents(folder: Path) -> dict[str, bytes]:
    """All but the report, which holds times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "FIDELITY.md"}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """resnet10t at 32 px, random weights."""
    out = tmp_path_factory.mktemp("resnet") / "export"
    return export_model("timm:resnet10t", out=out, image_size=32, pretrained=False).folder


@pytest.fixture(scope="module")
def graph(resnet: Path) -> onnx.ModelProto:
    return onnx.load(resnet / "encoder.onnx")


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter writes a graph that computes something else."""
    save = export_module.save_onnx

    def harmed(graph: EncoderGraph, *args: object, **keywords: object) -> None:
        with torch.no_grad():
            graph.shift[0, 0] += 0.5
        save(graph, *args, **keywords)

    monkeypatch.setattr(export_module, "save_onnx", harmed)


# --- the files -----------------------------------------------------------------------------------


def test_an_export_is_four_files_and_nothing_beside_them(resnet: Path) -> None:
    assert {path.name for path in resnet.iterdir()} == FILES
    assert [path.name for path in resnet.parent.iterdir()] == ["export"]


def test_exporting_again_gives_every_file_byte_for_byte(resnet: Path, tmp_path: Path) -> None:
    again = export_model(
        "timm:resnet10t", out=tmp_path / "other name", image_size=32, pretrained=False
    ).folder
    assert contents(again) == contents(resnet)


def test_the_manifest_vouches_for_the_files(resnet: Path) -> None:
    info = ModelInfo.load(resnet / "manifest.json")
    assert {name: file.sha256 for name, file in info.files.items()} == {
        "encoder.onnx": file_sha256(resnet / "encoder.onnx")
    }
    assert info.probe_sha256 == file_sha256(resnet / "probe.npz")


def test_the_manifest_says_what_was_exported(resnet: Path) -> None:
    info = ModelInfo.load(resnet / "manifest.json")
    assert (info.encoder.name, info.encoder.width, info.encoder.small_stem) == ("resnet10t", 512, False)
    assert info.encoder.parents == {"timm": "resnet10t", "pretrained": False}
    assert info.encoder.recipe == default_recipe("resnet10t", image_size=32)


def test_the_manifest_carries_the_verdict(resnet: Path) -> None:
    file = ModelInfo.load(resnet / "manifest.json").files["encoder.onnx"]
    assert (file.fidelity.batches, file.fidelity.images) == ((1, 2, 7, 8, 32, 256), 16)
    assert (file.usable, file.accepted, file.fidelity.recall_10) == (True, False, None)
    assert min(file.fidelity.cosine_min, file.fidelity.batch_cosine, file.probe_cosine) >= 0.999999
    assert file.fidelity.max_difference <= 1e-6
    assert file.fidelity.measured_on.startswith("CPUExecutionProvider, ONNX Runtime ")


def test_the_manifest_names_the_versions_it_was_made_with(resnet: Path) -> None:
    versions = ModelInfo.load(resnet / "manifest.json").versions
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (versions["timm"], versions["onnx"]) == (timm.__version__, onnx.__version__)


def test_the_probe_pictures_are_always_the_same_and_never_alike() -> None:
    images = drawn_images(Recipe(size=16))
    assert images.shape == (16, 16, 16, 3)
    assert np.array_equal(images, drawn_images(Recipe(size=16)))
    assert len(np.unique(images.reshape(16, -1), axis=0)) == 16


# --- the graph -----------------------------------------------------------------------------------


def form(value: onnx.ValueInfoProto) -> tuple[str, int, list[str | int]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


def test_the_graph_takes_uint8_nhwc_and_gives_float32(graph: onnx.ModelProto) -> None:
    assert [form(value) for value in graph.graph.input] == [
        ("images", onnx.TensorProto.UINT8, ["batch", 32, 32, 3])
    ]
    assert [form(value) for value in graph.graph.output] == [
        ("embedding", onnx.TensorProto.FLOAT, ["batch", 512])
    ]


def test_the_graph_is_plain(graph: onnx.ModelProto) -> None:
    kinds = Counter(node.op_type for node in graph.graph.node)
    assert kinds.keys().isdisjoint({"Range", "Gather", "Shape", "Expand", "BatchNormalization", "If", "Loop"})
    assert {node.domain for node in graph.graph.node} == {""}


def test_the_cast_comes_first_so_that_no_transpose_sees_uint8(graph: onnx.ModelProto) -> None:
    assert [node.op_type for node in graph.graph.node if "images" in node.input] == ["Cast"]


def test_the_opset_is_18_and_no_other(graph: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]


def test_all_weights_are_inside_the_one_file(graph: onnx.ModelProto) -> None:
    assert all(not tensor.external_data for tensor in graph.graph.initializer)
    assert sum(np.prod(tensor.dims) for tensor in graph.graph.initializer) > 4_900_000


def test_no_path_of_this_machine_is_in_the_files(resnet: Path) -> None:
    local = {os.getcwd(), os.path.dirname(torch.__file__), str(resnet.parent), "site-packages", ".py"}
    local |= {str(Path.home()), *site.getsitepackages()} - {"/"}
    found = [
        (name, text) for name, data in contents(resnet).items() for text in local if text.encode() in data
    ]
    assert found == []


def test_no_node_carries_metadata(graph: onnx.ModelProto) -> None:
    assert [node.name for node in graph.graph.node if node.metadata_props or node.doc_string] == []


def test_the_graph_says_what_it_is(graph: onnx.ModelProto, resnet: Path) -> None:
    notes = {entry.key: entry.value for entry in graph.metadata_props}
    assert notes["simclr.identity"] == ModelInfo.load(resnet / "manifest.json").encoder.identity
    assert notes["simclr.encoder"] == "resnet10t"


# --- what it computes ----------------------------------------------------------------------------


@torch.inference_mode()
def test_vectors_are_those_of_plain_timm_on_normalised_floats(resnet: Path) -> None:
    torch.manual_seed(0)  # as the export seeds its random weights
    plain = timm.create_model("resnet10t", num_classes=0).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    config = plain.pretrained_cfg
    normalised = (pixels / 255 - config["mean"]) / config["std"]
    expected = F.normalize(plain(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float()), dim=1)
    found = Encoder.open(resnet, backend="ort-cpu").encode(pixels)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_a_run_folder_is_exported_into_itself(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = build_encoder("test_resnet").eval()
    info = EncoderInfo(
        name="test_resnet",
        small_stem=False,
        width=model.num_features,
        weights_sha256=weights_sha256(model.state_dict()),
        recipe=Recipe(size=32, crop=1.0),
        parents={"step": 7},
    )
    save_encoder(tmp_path, model, info)
    assert export_model(tmp_path).folder == tmp_path / "export"
    assert ModelInfo.load(tmp_path / "export" / "manifest.json").encoder == info
    with np.load(tmp_path / "export" / "probe.npz") as probe, torch.inference_mode():
        x = (torch.from_numpy(probe["images"]) / 255 - torch.tensor(info.recipe.mean)) / torch.tensor(
            info.recipe.std
        )
        expected = F.normalize(model(x.permute(0, 3, 1, 2)), dim=1)
        found = Encoder.open(tmp_path, backend="ort-cpu").encode(probe["images"])
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_a_weights_file_is_exported_with_the_encoder_named(tmp_path: Path) -> None:
    torch.manual_seed(6)
    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    torch.save({"state_dict": state}, tmp_path / "mine.pth")
    out = export_model(tmp_path / "mine.pth", encoder="test_resnet", image_size=96).folder
    assert out == tmp_path / "mine" / "export"
    info = ModelInfo.load(out / "manifest.json").encoder
    own = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    assert (info.weights_sha256, info.parents) == (
        weights_sha256(own),
        {"file": "mine.pth", "wrapper": "state_dict"},
    )


# --- parity --------------------------------------------------------------------------------------


def test_a_graph_that_computes_something_else_is_refused_and_leaves_nothing(
    tmp_path: Path, breaks: None
) -> None:
    with pytest.raises(
        ExportMismatch,
        match=r"^encoder.onnx: does not compute what PyTorch does \(smallest cosine 0\.\d+, .*\)\. Nothing was written",
    ):
        export_mixed(tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_export_leaves_the_one_before_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = contents(export_mixed(tmp_path / "export"))
    request.getfixturevalue("breaks")
    with pytest.raises(ExportMismatch):
        export_mixed(tmp_path / "export")
    assert contents(tmp_path / "export") == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_wrong_fold_is_found_out_like_a_wrong_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(encoder: nn.Module) -> nn.Module:
        torch.nn.init.zeros_(other.norm.running_mean)
        return other.eval()

    other = Mixed()
    monkeypatch.setattr("simclr.export.graph.fold_bn", wrong)
    with pytest.raises(ExportMismatch):
        export_mixed(tmp_path / "export")


def test_a_wrong_normalisation_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(export_module.EncoderGraph):
        def __init__(self, encoder: nn.Module, *, std: tuple[float, ...], **rest: object) -> None:
            super().__init__(encoder, std=tuple(value / 2 for value in std), **rest)

    monkeypatch.setattr(export_module, "EncoderGraph", Twice)
    with pytest.raises(ExportMismatch):
        export_mixed(tmp_path / "export")


def test_a_check_folder_without_a_readable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=f"^{tmp_path}/check: none of its images can be read.$"):
        export_mixed(tmp_path / "export", check=str(tmp_path / "check"))
    assert not (tmp_path / "export").exists()


# --- where it goes -------------------------------------------------------------------------------


def test_an_older_export_is_replaced(tmp_path: Path) -> None:
    first = contents(export_mixed(tmp_path / "export"))
    (tmp_path / "export" / "probe.npz").write_bytes(b"old")
    assert contents(export_mixed(tmp_path / "export")) == first


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    assert {path.name for path in export_mixed(tmp_path / "export").iterdir()} == FILES


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json", "encoder.onnx"])
def test_a_folder_of_something_else_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("{}")
    with pytest.raises(ConfigError, match=f"^{tmp_path}/mine: exists and is no export. Use another --out.$"):
        export_mixed(tmp_path / "mine")
    assert contents(tmp_path / "mine") == {name: b"{}"}


def test_a_store_is_not_taken_for_an_export(tmp_path: Path) -> None:
    store = tmp_path / "out.store"
    (store / "img_emb").mkdir(parents=True)
    StoreInfo(
        uid="a", generation=0, identity="b", width=6, sources=(), next_id=0, next_shard=0, shards=()
    ).save(store / "manifest.json")
    with pytest.raises(ConfigError, match="exists and is no export"):
        export_mixed(store)
    assert (store / "img_emb").exists()


def test_a_file_in_the_way_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is no export"):
        export_mixed(tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_manifest_is_json_that_other_tools_read(resnet: Path) -> None:
    values = json.loads((resnet / "manifest.json").read_text(encoding="utf-8"))
    assert values["encoder"]["recipe"]["size"] == 32

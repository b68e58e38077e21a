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
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from simclr.artifacts import EncoderInfo, ModelInfo, StoreInfo, file_sha256
from simclr.encoder import build_encoder, default_recipe, save_encoder, weights_sha256
from simclr.errors import ConfigError, ExportMismatch, ImageError
from simclr.export import export_model
from simclr.export import onnx as export_module
from simclr.export.onnx import probe_images, write_export
from simclr.preprocess import Recipe
from simclr.runtime import Encoder

FILES = {"encoder.onnx", "manifest.json", "probe.npz"}


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


def export_mixed(out: Path, **keywords: Path) -> Path:
    model = Mixed().eval()
    return write_export(model, describe(model), out, **keywords)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """resnet10t at 32 px, random weights."""
    out = tmp_path_factory.mktemp("resnet") / "export"
    return export_model("timm:resnet10t", out=out, image_size=32, pretrained=False)


@pytest.fixture(scope="module")
def graph(resnet: Path) -> onnx.ModelProto:
    return onnx.load(resnet / "encoder.onnx")


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter writes a graph that computes something else."""
    save = export_module._save_onnx

    def harmed(graph: nn.Module, info: EncoderInfo, path: Path) -> None:
        with torch.no_grad():
            graph.shift[0, 0] += 0.5
        save(graph, info, path)

    monkeypatch.setattr(export_module, "_save_onnx", harmed)


# --- the files -----------------------------------------------------------------------------------


def test_an_export_is_three_files_and_nothing_beside_them(resnet: Path) -> None:
    assert {path.name for path in resnet.iterdir()} == FILES
    assert [path.name for path in resnet.parent.iterdir()] == ["export"]


def test_exporting_again_gives_every_file_byte_for_byte(resnet: Path, tmp_path: Path) -> None:
    again = export_model("timm:resnet10t", out=tmp_path / "other name", image_size=32, pretrained=False)
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


def test_the_manifest_carries_the_parity_numbers(resnet: Path) -> None:
    parity = ModelInfo.load(resnet / "manifest.json").parity
    assert (parity["batches"], parity["images"], parity["floor"]) == ([1, 2, 7, 256], 16, 0.99999)
    assert parity["min_cosine"] >= 0.999999 and parity["max_abs_difference"] < 1e-4


def test_the_manifest_names_the_versions_it_was_made_with(resnet: Path) -> None:
    versions = ModelInfo.load(resnet / "manifest.json").versions
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (versions["timm"], versions["onnx"]) == (timm.__version__, onnx.__version__)


def test_the_probe_pictures_are_always_the_same_and_never_alike() -> None:
    images, names = probe_images(Recipe(size=16))
    assert images.shape == (16, 16, 16, 3) and len(names) == 16
    assert np.array_equal(images, probe_images(Recipe(size=16))[0])
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
    found = Encoder.open(resnet, backend="cpu").encode(pixels)
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
    assert export_model(tmp_path) == tmp_path / "export"
    assert ModelInfo.load(tmp_path / "export" / "manifest.json").encoder == info
    with np.load(tmp_path / "export" / "probe.npz") as probe, torch.inference_mode():
        x = (torch.from_numpy(probe["images"]) / 255 - torch.tensor(info.recipe.mean)) / torch.tensor(
            info.recipe.std
        )
        expected = F.normalize(model(x.permute(0, 3, 1, 2)), dim=1)
        found = Encoder.open(tmp_path, backend="cpu").encode(probe["images"])
    assert np.abs(found - expected.numpy()).max() < 1e-5


def test_a_weights_file_is_exported_with_the_encoder_named(tmp_path: Path) -> None:
    torch.manual_seed(6)
    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    torch.save({"state_dict": state}, tmp_path / "mine.pth")
    out = export_model(tmp_path / "mine.pth", encoder="test_resnet", image_size=96)
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
        ExportMismatch, match=r"^probe image \d+: .* has cosine 0\.\d+ .* Nothing was written"
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


def test_the_worst_picture_is_the_one_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_session = export_module.open_session

    class Session:
        """Spoils pictures 4, 9 and 11, the second most."""

        def __init__(self, session: object) -> None:
            self.session = session

        def run(self, outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            found = self.session.run(outputs, feed)[0]
            images = probe_images(Recipe(size=8))[0]
            for number, harm in ((4, 0.2), (9, 3.0), (11, 0.4)):
                which = (feed["images"] == images[number]).all((1, 2, 3))
                found[which, 0] -= harm
            return [found / np.linalg.norm(found, axis=1, keepdims=True)]

    def opened(*args: object, **keywords: object) -> tuple[Session, str]:
        return Session(open_session(*args, **keywords)[0]), "cpu"

    monkeypatch.setattr(export_module, "open_session", opened)
    with pytest.raises(ExportMismatch, match=r"^probe image 9: "):
        export_mixed(tmp_path / "export")


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
        def __init__(self, encoder: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
            super().__init__(encoder, mean=mean, std=tuple(value / 2 for value in std))

    monkeypatch.setattr(export_module, "EncoderGraph", Twice)
    with pytest.raises(ExportMismatch):
        export_mixed(tmp_path / "export")


def test_check_pictures_join_the_parity_check_and_are_named(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def check_parity(
        run: object, images: np.ndarray, expected: np.ndarray, **keywords: object
    ) -> dict[str, object]:
        seen.update(keywords, images=images)
        raise ExportMismatch(f"{keywords['names'][20]}: worst")

    (photos / "cold" / "a_damaged.png").write_bytes(b"nothing")
    monkeypatch.setattr(export_module, "check_parity", check_parity)
    fourth = (
        photos / "cold" / "green_light.png"
    )  # after blue_dark, blue_light and green_dark; the damaged one is left out
    with pytest.raises(ExportMismatch, match=f"^{photos}/cold/purple_dark.png: worst$"):
        export_mixed(tmp_path / "export", check=photos)
    assert len(seen["images"]) == len(seen["names"]) == 16 + 12
    assert seen["names"][19] == str(fourth)
    assert np.array_equal(
        seen["images"][19], Recipe(size=8, crop=1.0).apply(Image.open(fourth).convert("RGB"))
    )


def test_a_check_folder_without_a_readable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(ImageError, match=f"^{tmp_path}/check: none of its images can be read.$"):
        export_mixed(tmp_path / "export", check=tmp_path / "check")
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
    StoreInfo(uid="a", generation=0, identity="b", width=6, sources=(), next_id=0, shards=()).save(
        store / "manifest.json"
    )
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

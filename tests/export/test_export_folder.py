"""Several precisions in one export, each with its verdict."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from PIL import Image

from simclr.artifacts import EncoderInfo, ModelInfo
from simclr.encoder import build_encoder, save_encoder, weights_sha256
from simclr.errors import ArtifactError, ConfigError, ExportMismatch
from simclr.export import ExportConfig, Exported, export_model
from simclr.export.fidelity import THRESHOLDS, Threshold
from simclr.preprocess import Recipe
from simclr.runtime import Encoder
from simclr.runtime.model_files import FILE_OF


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 smooth 20x20 images."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(300):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((20, 20), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.png")
    return folder


def export(out: Path, **settings: object) -> Exported:
    return export_model(
        "timm:test_resnet", ExportConfig(**settings), out=out, image_size=32, pretrained=False
    )


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Exported:
    """All precisions, judged on the pictures and calibrated with them."""
    return export(tmp_path_factory.mktemp("narrow") / "export", **everything(pictures))


def everything(pictures: Path) -> dict[str, object]:
    """In another order than they are written. Neighbours among random weights are ties: the verdict is accepted."""
    names = ("int8-trt", "bf16", "int8", "fp16")
    return {"precisions": names, "check": str(pictures), "calibrate": str(pictures), "accept": True}


def info_of(exported: Exported) -> ModelInfo:
    return ModelInfo.load(exported.folder / "manifest.json")


# --- the files -----------------------------------------------------------------------------------


def test_fp32_always_comes_along_and_first(narrow: Exported) -> None:
    assert [row.name for row in narrow.rows] == list(FILE_OF.values())
    assert {path.name for path in narrow.folder.iterdir()} == {
        *FILE_OF.values(), "probe.npz", "manifest.json", "FIDELITY.md",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "kind", "opset"), [("fp16", TensorProto.FLOAT16, 18), ("bf16", TensorProto.BFLOAT16, 22)]
)
def test_a_narrow_file_is_typed_in_its_weights_and_float32_at_its_ends(
    narrow: Exported, precision: str, kind: int, opset: int
) -> None:
    graph = onnx.load(narrow.folder / FILE_OF[precision])
    assert [entry.version for entry in graph.opset_import] == [opset]
    of = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert convolutions and {of[name] for node in convolutions for name in node.input[1:]} == {kind}
    assert graph.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert graph.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    half = (narrow.folder / FILE_OF[precision]).stat().st_size / (
        narrow.folder / "encoder.onnx"
    ).stat().st_size
    assert half == pytest.approx(0.5, abs=0.05)


def test_exporting_again_gives_the_same_bytes_of_every_precision(
    narrow: Exported, tmp_path: Path, pictures: Path
) -> None:
    again = export(tmp_path / "another", **everything(pictures))
    for path in narrow.folder.iterdir():
        if path.name != "FIDELITY.md":
            assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


def test_no_artefact_names_a_path_or_a_user(narrow: Exported, pictures: Path) -> None:
    words = {
        str(pictures),
        str(narrow.folder),
        os.path.dirname(torch.__file__),
        str(Path.home()),
        "site-packages",
    }
    words |= {os.environ.get("USER", "root") + "@", "/tmp/"}
    for path in narrow.folder.iterdir():
        data = path.read_bytes()
        assert [word for word in words if len(word) > 1 and word.encode() in data] == [], path.name


def test_exporting_less_again_leaves_no_file_of_before(tmp_path: Path) -> None:
    export(tmp_path / "export", precisions=("fp16",))
    export(tmp_path / "export")
    assert not (tmp_path / "export" / "encoder.fp16.onnx").exists()


# --- the verdict ---------------------------------------------------------------------------------


def test_sixteen_bits_are_judged_by_rounding_every_operation(narrow: Exported) -> None:
    fidelity = {row.file.precision: row.file.fidelity for row in narrow.rows}
    assert fidelity["fp16"].measured_on.startswith(
        "PyTorch, rounded to fp16 after every operation; CPUExecutionProvider, ONNX Runtime "
    )
    assert fidelity["bf16"].measured_on == (
        "PyTorch, rounded to bf16 after every operation; no provider here runs the file"
    )
    assert fidelity["fp16"].cosine_min < 1.0  # which a CPU alone would not show
    assert fidelity["bf16"].cosine_mean < fidelity["fp16"].cosine_mean < fidelity["fp32"].cosine_mean + 1e-7
    assert (fidelity["bf16"].batches, fidelity["bf16"].batch_cosine) == ((), None)


def test_neighbours_are_those_among_the_users_pictures(narrow: Exported) -> None:
    """All 300 where ONNX Runtime runs the file, 256 where PyTorch does."""
    images = {row.file.precision: row.file.fidelity.images for row in narrow.rows}
    assert images == {"fp32": 256, "fp16": 256, "bf16": 256, "int8": 300, "int8-trt": 300}
    assert all(row.file.fidelity.recall_10 is not None for row in narrow.rows)


def test_a_precision_below_its_threshold_is_written_marked_and_refused(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = dict(THRESHOLDS) | {"fp16": Threshold(cosine=1.1, recall_10=0.5)}
    monkeypatch.setattr("simclr.export.fidelity.THRESHOLDS", strict)
    exported = export(tmp_path / "export", precisions=("fp16",), check=str(pictures))
    with pytest.raises(
        ExportMismatch,
        match=r"/export: encoder\.fp16\.onnx: smallest cosine \d\.\d+, at least 1\.1 needed\. Marked unusable; the other files "
        r"are good\. Keep it all the same with --accept\.$",
    ):
        exported.refuse_failed()
    with pytest.raises(
        ArtifactError, match=r"encoder\.fp16\.onnx: its fidelity verdict failed \(smallest cosine"
    ):
        Encoder.open(exported.folder, backend="ort-cpu", precision="fp16")
    assert Encoder.open(exported.folder, backend="ort-cpu").precision == "fp32"
    assert "UNUSABLE" in (exported.folder / "FIDELITY.md").read_text()

    accepted = export(tmp_path / "export", precisions=("fp16",), check=str(pictures), accept=True)
    accepted.refuse_failed()
    assert info_of(accepted).files["encoder.fp16.onnx"].accepted
    assert Encoder.open(accepted.folder, backend="ort-cpu", precision="fp16").precision == "fp16"


@pytest.mark.parametrize(("precision", "near"), [("fp16", 0.9999), ("int8", 0.98), ("int8-trt", 0.98)])
def test_each_precision_opens_and_agrees_with_fp32(
    narrow: Exported, pictures: Path, precision: str, near: float
) -> None:
    paths = sorted(pictures.iterdir())[:20]
    wide = Encoder.open(narrow.folder, backend="ort-cpu").encode(paths)
    less = Encoder.open(narrow.folder, backend="ort-cpu", precision=precision).encode(paths)
    assert (wide * less).sum(1).min() > near and not np.array_equal(wide, less)


def test_an_unknown_precision_names_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"^precision 'fp8' is unknown\. Use some of: fp32, fp16, bf16, int8, int8-trt\.$"
    ):
        ExportConfig(precisions=("fp16", "fp8"))


# --- the run's own pictures ----------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, pictures: Path) -> Path:
    """A run folder, as far as export reads one."""
    torch.manual_seed(5)
    model = build_encoder("test_resnet").eval()
    folder = tmp_path / "run"
    folder.mkdir()
    info = EncoderInfo(
        name="test_resnet", small_stem=False, width=model.num_features,
        weights_sha256=weights_sha256(model.state_dict()), recipe=Recipe(size=32, crop=1.0),
    )  # fmt: skip
    save_encoder(folder, model, info)
    (folder / "config.toml").write_text(f"data = {json.dumps(str(pictures))}\n")
    return folder


def test_a_run_is_judged_on_what_it_was_trained_on(run: Path) -> None:
    assert export_model(run).rows[0].file.fidelity.recall_10 == 1.0


def test_pictures_that_are_gone_are_said_and_no_end(run: Path) -> None:
    (run / "config.toml").write_text('data = "/nowhere/at/all"\n')
    said: list[str] = []
    exported = export_model(run, note=said.append)
    assert exported.rows[0].file.fidelity.recall_10 is None
    assert said == [
        "the images of this run cannot be read any more (/nowhere/at/all: no such folder. Give a folder of images.); "
        "give others with --check"
    ]


def test_a_full_disk_leaves_the_export_before_and_nothing_half_written(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        export(disk / "export")
        before = {path.name: path.read_bytes() for path in (disk / "export").iterdir()}
        with pytest.raises(OSError, match="No space left"):
            export(disk / "export", precisions=("fp16", "bf16"))
        assert {path.name: path.read_bytes() for path in (disk / "export").iterdir()} == before
        assert [path.name for path in disk.iterdir()] == ["export"]
    finally:
        subprocess.run(["umount", disk], check=True)

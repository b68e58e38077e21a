import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from simclr.artifacts import ModelInfo, file_sha256
from simclr.errors import ArtifactError, ConfigError, ImageError, MissingExtra
from simclr.images import Picture, decode
from simclr.runtime import Encoder, newest_export
from simclr.runtime.model_files import read_verified


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """An export folder to tamper with."""
    return shutil.copytree(model, tmp_path / "copy")


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return Encoder.open(model, backend="ort-cpu")


@pytest.fixture
def drawn() -> np.ndarray:
    """(19, 16, 16, 3) uint8 noise."""
    return np.random.default_rng(0).integers(0, 256, (19, 16, 16, 3), dtype=np.uint8)


def rehash(folder: Path) -> None:
    """Make the manifest vouch for the files as they are now."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    for name, file in values["files"].items():
        file |= {"sha256": file_sha256(folder / name), "size": (folder / name).stat().st_size}
    probe = folder / "probe.npz"
    values |= {"probe_sha256": file_sha256(probe), "probe_size": probe.stat().st_size}
    path.write_text(json.dumps(values))


def by_hand(pixels: np.ndarray) -> np.ndarray:
    """The fake encoder in numpy: mean colour of each quarter, channel after channel, at unit length."""
    quarters = pixels.reshape(len(pixels), 2, 8, 2, 8, 3).astype(np.float64).mean((2, 4)) / 255
    features = quarters.transpose(0, 3, 1, 2).reshape(len(pixels), 12) + 1e-3
    return features / np.linalg.norm(features, axis=1, keepdims=True)


# --- encode --------------------------------------------------------------------------------------


def test_arrays_give_what_numpy_gives(encoder: Encoder, drawn: np.ndarray) -> None:
    found = encoder.encode(drawn)
    assert found.dtype == np.float32 and np.allclose(found, by_hand(drawn), atol=1e-6)


def test_paths_images_pictures_and_arrays_agree(encoder: Encoder, photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))
    expected = encoder.encode([str(path) for path in paths])
    assert np.array_equal(encoder.encode(paths), expected)
    assert np.array_equal(encoder.encode([Image.open(path) for path in paths]), expected)
    assert np.array_equal(encoder.encode([decode(path.read_bytes()) for path in paths]), expected)
    arrays = np.stack([encoder.recipe.apply(Image.open(path).convert("RGB")) for path in paths])
    assert np.array_equal(encoder.encode(arrays), expected)


@pytest.mark.parametrize("batch", [2, 3, 7, 8, 19, 256])
def test_a_batch_of_any_size_agrees_with_batch_1(
    encoder: Encoder, drawn: np.ndarray, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = np.concatenate([encoder(drawn[i : i + 1]) for i in range(len(drawn))])
    monkeypatch.setattr(encoder, "batch", batch)
    assert np.allclose(encoder.encode(drawn), single, atol=1e-6)


def test_vectors_have_unit_length(encoder: Encoder, drawn: np.ndarray) -> None:
    assert np.allclose(np.linalg.norm(encoder.encode(drawn), axis=1), 1, atol=1e-6)


def test_no_image_gives_no_vector(encoder: Encoder, drawn: np.ndarray) -> None:
    assert encoder.encode([]).shape == encoder.encode(drawn[:0]).shape == (0, 12)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 7])
def test_an_image_with_an_orientation_equals_its_file(
    encoder: Encoder, tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    path = tmp_path / "a"
    Image.fromarray(noise).save(path, kind, exif=exif)
    from_file = encoder.encode([path])
    assert np.array_equal(encoder.encode([Image.open(path)]), from_file)
    assert np.abs(from_file - encoder.encode([Image.fromarray(noise)])).max() > 1e-3  # it was turned


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "F", "CMYK", "LAB", "YCbCr"])
def test_an_image_of_any_mode_equals_its_file(encoder: Encoder, tmp_path: Path, mode: str) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    if mode in ("I;16", "F"):
        image = Image.fromarray(noise[..., 0].astype(np.uint16 if mode == "I;16" else np.float32))
    elif mode == "LAB":
        image = Image.merge("LAB", [Image.fromarray(noise[..., i]) for i in range(3)])
    else:
        image = Image.fromarray(noise)
        image = image.convert(mode) if mode in ("LA", "RGBA") else image.convert("RGB").convert(mode)
    path = tmp_path / "a.tif"
    image.save(path)
    assert np.abs(encoder.encode([image]) - encoder.encode([path])).max() < 1e-6


def test_the_transparent_colour_of_a_palette_image_is_white(encoder: Encoder) -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([10, 20, 30])
    image.info["transparency"] = 0
    assert np.array_equal(encoder.encode([image]), encoder.encode([Image.new("RGB", (20, 20), "white")]))


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((2, 8, 8, 3), np.uint8, r"\(2, 8, 8, 3\) and dtype uint8"),
        ((2, 3, 16, 16), np.uint8, r"\(2, 3, 16, 16\) and dtype uint8"),
        ((16, 16, 3), np.uint8, r"\(16, 16, 3\) and dtype uint8"),
        ((2, 16, 16, 3), np.float32, r"\(2, 16, 16, 3\) and dtype float32"),
    ],
)
def test_an_array_of_another_form_is_refused_with_the_form_wanted(
    encoder: Encoder, shape: tuple[int, ...], dtype: type, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{said}: this encoder takes \(N, 16, 16, 3\) uint8"):
        encoder.encode(np.zeros(shape, dtype))


def test_the_first_unreadable_image_is_named(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=f"^{bad}: not an image of a known format.$"):
        encoder.encode([photos / "warm" / "red_light.png", bad])


def test_a_missing_image_is_named(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(
        ImageError, match=rf"^{tmp_path}/a.png: cannot be read \(No such file or directory\).$"
    ):
        encoder.encode([tmp_path / "a.png"])


def test_a_picture_is_used_as_it_is(encoder: Encoder) -> None:
    red = Image.new("RGB", (20, 20), "red")
    assert np.array_equal(encoder.encode([Picture(red, 4000, 4000)]), encoder.encode([red]))


# --- open ----------------------------------------------------------------------------------------


def test_what_is_open_describes_itself(encoder: Encoder, model: Path) -> None:
    info = ModelInfo.load(model / "manifest.json")
    assert (encoder.identity, encoder.width, encoder.backend) == (info.encoder.identity, 12, "ort-cpu")
    assert encoder.recipe == info.encoder.recipe


def test_a_run_folder_opens_the_export_in_it(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "run" / "export")
    assert Encoder.open(tmp_path / "run", backend="ort-cpu").folder == tmp_path / "run" / "export"


@pytest.mark.parametrize("name", ["", "gone"])
def test_a_folder_without_an_export_says_how_to_make_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r": holds no exported model\. Make one with `simclr export`\.$"):
        Encoder.open(tmp_path / name)


@pytest.mark.parametrize("file", ["encoder.onnx", "probe.npz"])
def test_a_changed_byte_is_found_out(copy: Path, file: str) -> None:
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=f"^{copy}/{file}: its SHA-256 is not the one in manifest.json"):
        Encoder.open(copy)


@pytest.mark.parametrize("file", ["encoder.onnx", "probe.npz"])
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(ArtifactError, match=f"^{copy}/{file}: cannot be read"):
        Encoder.open(copy)


@pytest.mark.parametrize("file", ["encoder.onnx", "probe.npz"])
def test_a_truncated_file_is_refused_by_its_size_before_it_is_read(
    copy: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[:-9])
    monkeypatch.setattr(hashlib, "sha256", None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)
    said = f"{copy}/{file}: has {len(data) - 9:,} bytes, but manifest.json says {len(data):,}. Run `simclr export` again."
    with pytest.raises(ArtifactError, match=f"^{re.escape(said)}$"):
        read_verified(copy / file, size=len(data), sha256="")


def test_a_foreign_graph_is_named_with_what_it_takes_and_gives(copy: Path) -> None:
    """Its hash is in the manifest, so that only the shapes can tell."""
    size = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 8, 8, 3])
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 8, 8, 3])
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["scores"], to=1)], "foreign", [size], [out]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, copy / "encoder.onnx")
    rehash(copy)
    said = (
        f"{copy}/encoder.onnx: takes and gives images tensor(uint8)(N, 8, 8, 3), scores tensor(float)(N, 8, 8, 3), but the "
        "manifest describes images tensor(uint8)(N, 16, 16, 3), embedding tensor(float)(N, 12). Run `simclr export` again."
    )
    with pytest.raises(ArtifactError, match=f"^{re.escape(said)}$"):
        Encoder.open(copy)


def test_weights_outside_the_file_are_refused_wherever_the_process_stands(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load(copy / "encoder.onnx")
    onnx.save(
        graph, copy / "encoder.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    rehash(copy)
    monkeypatch.chdir(copy)
    with pytest.raises(
        ArtifactError, match=rf"^{copy}/encoder.onnx: keeps weights outside itself, and is not opened"
    ):
        Encoder.open(copy)


def test_a_listed_file_under_another_name_is_not_opened(copy: Path) -> None:
    """Names come from the precision, so that a manifest cannot point out of its folder."""
    values = json.loads((copy / "manifest.json").read_text())
    values["files"]["../evil.onnx"] = values["files"]["encoder.onnx"]
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="lists files that this simclr cannot run"):
        Encoder.open(copy)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"nothing", "is no ONNX file, and is not opened"), (b"", "ONNX Runtime cannot open it")],
)
def test_a_file_that_is_no_graph_is_named(copy: Path, data: bytes, said: str) -> None:
    (copy / "encoder.onnx").write_bytes(data)
    rehash(copy)
    with pytest.raises(ArtifactError, match=f"^{copy}/encoder.onnx: {said}"):
        Encoder.open(copy)


def test_an_operator_that_brings_an_engine_is_refused(copy: Path) -> None:
    graph = onnx.load(copy / "encoder.onnx")
    graph.graph.node.append(helper.make_node("EPContext", ["images"], ["engine"], domain="com.microsoft"))
    onnx.save(graph, copy / "encoder.onnx")
    rehash(copy)
    with pytest.raises(
        ArtifactError, match=r"encoder.onnx: uses operators of 'com\.microsoft', and is not opened"
    ):
        Encoder.open(copy)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_single_call_takes_no_floats_for_pixels(encoder: Encoder, dtype: type) -> None:
    with pytest.raises(ConfigError, match=r"this encoder takes \(N, 16, 16, 3\) uint8"):
        encoder(np.zeros((2, 16, 16, 3), dtype))


def test_without_onnxruntime_the_install_line_is_given(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        MissingExtra, match=r"^onnxruntime is not installed\. Run: pip install 'simclr-toolkit\[cpu\]'$"
    ):
        Encoder.open(model)


def test_encoding_loads_no_torch(model: Path, photos: Path) -> None:
    program = """
import sys
from simclr.runtime import Encoder
vectors = Encoder.open(sys.argv[1], backend="ort-cpu").encode([sys.argv[2]])
print(vectors.shape, sorted({"torch", "timm", "onnx", "faiss"} & set(sys.modules)))
"""
    arguments = [sys.executable, "-c", program, str(model), str(photos / "warm" / "red_light.png")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 12) []\n"


# --- the newest export ---------------------------------------------------------------------------


def test_the_export_written_last_is_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i, folder in enumerate(("runs/b/export", "export/c", "runs/a/export")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "manifest.json").write_text("{}")
        os.utime(tmp_path / folder / "manifest.json", (1000 + i, 1000 + i))
    assert newest_export() == Path("runs/a/export")


def test_no_export_at_all_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="Make one with `simclr export`"):
        newest_export()

"""The files of an export folder: which one holds which precision, and their bytes once they are vouched for.

Nothing is parsed here. A file is read once, measured and digested against the manifest, and those very bytes are
given on, so that nobody can exchange the file in between.
"""

import hashlib
from pathlib import Path

from simclr.artifacts import ModelFile, ModelInfo
from simclr.errors import ArtifactError
from simclr.runtime.onnx_scan import what_is_refused

MODEL_FILE = "encoder.onnx"
MANIFEST_FILE = "manifest.json"
PROBE_FILE = "probe.npz"

FILE_OF = {
    "fp32": MODEL_FILE,
    "fp16": "encoder.fp16.onnx",
    "bf16": "encoder.bf16.onnx",
    "int8": "encoder.int8.onnx",
    "int8-trt": "encoder.int8-trt.onnx",
}
"""Precision -> file. int8 is for CPUs, int8-trt for TensorRT: each wants another kind of zero point."""


def open_folder(path: str | Path) -> tuple[Path, ModelInfo]:
    """An export folder, or the run folder that holds one. Raises ArtifactError if it is neither."""
    folder = Path(path)
    if not (folder / MANIFEST_FILE).exists() and (folder / "export" / MANIFEST_FILE).exists():
        folder = folder / "export"
    if not (folder / MANIFEST_FILE).exists():
        raise ArtifactError(f"{folder}: holds no exported model. Make one with `simclr export`.")
    info = ModelInfo.load(folder / MANIFEST_FILE)
    if MODEL_FILE not in info.files or any(
        FILE_OF.get(file.precision) != name for name, file in info.files.items()
    ):
        raise ArtifactError(
            f"{folder / MANIFEST_FILE}: lists files that this simclr cannot run. Run `simclr export` again."
        )
    return folder, info


def newest_export() -> Path:
    """The export folder written last below `runs/` and `export/`. Raises ArtifactError if there is none."""
    found = [*Path("runs").glob(f"*/export/{MANIFEST_FILE}"), *Path("export").glob(f"*/{MANIFEST_FILE}")]
    if not found:
        raise ArtifactError(
            "runs/: no exported model. Make one with `simclr export`, or give one with --model."
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def read_model(folder: Path, info: ModelInfo, precision: str) -> bytes:
    """The bytes of one precision.

    Raises ArtifactError unless size and SHA-256 are those of the manifest, and where the file has in it what none of ours has.
    """
    name = FILE_OF[precision]
    data = read_verified(folder / name, size=info.files[name].size, sha256=info.files[name].sha256)
    if refused := what_is_refused(data):  # the manifest may come from whoever made the file
        raise ArtifactError(f"{folder / name}: {refused}, and is not opened. Run `simclr export` again.")
    return data


def read_verified(path: Path, *, size: int, sha256: str) -> bytes:
    """The bytes of a file that the manifest beside it vouches for. Raises ArtifactError where it does not."""
    try:
        found = (
            path.stat().st_size
        )  # before reading: what a manifest does not expect is not loaded into memory
        data = path.read_bytes() if found == size else b""
    except OSError as exc:
        raise ArtifactError(f"{path}: cannot be read ({exc.strerror or exc}).") from exc
    if found != size:
        raise ArtifactError(
            f"{path}: has {found:,} bytes, but {MANIFEST_FILE} says {size:,}. Run `simclr export` again."
        )
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ArtifactError(
            f"{path}: its SHA-256 is not the one in {MANIFEST_FILE}. Run `simclr export` again."
        )
    return data


def refuse_unusable(folder: Path, precision: str, file: ModelFile) -> None:
    """Raises ArtifactError if the export found this precision too far from fp32, and nobody accepted that."""
    if not file.usable:
        raise ArtifactError(
            f"{folder / FILE_OF[precision]}: its fidelity verdict failed ({file.fidelity.words}). "
            "See FIDELITY.md beside it; use another precision, or export again with --accept."
        )

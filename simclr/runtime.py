"""Open an exported model: uint8 images -> unit-length float32 vectors. No torch.

    encoder = Encoder.open("runs/x/export")
    vectors = encoder.encode(["a.jpg", "b.jpg"])        # (2, D)

Every opening runs the probe that lies beside the model and compares it with the embeddings found at export, so
that a runtime which computes something else is found out before it fills a store.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr.artifacts import ModelInfo, file_sha256
from simclr.cpus import available_cpus
from simclr.errors import ArtifactError, ConfigError, ExportMismatch, ImageError, MissingExtra, reason
from simclr.images import Picture, decode, upright
from simclr.preprocess import Recipe

MODEL_FILE = "encoder.onnx"
MANIFEST_FILE = "manifest.json"
PROBE_FILE = "probe.npz"

COSINE_FLOOR = {"fp32": 0.99999}
"""Smallest cosine to the fp32 embeddings that a precision must reach, on export and at every load."""

BATCH = {"cpu": 8, "cuda": 256}
"""Images a call by backend. CPU, ResNet-50 at 224 px on 2 cores: 1 35/s, 4 39/s, 8 38/s, 32 35/s."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


OneImage = str | Path | Image.Image | Picture


class Encodes(Protocol):
    """What embedding and searching need of an encoder; tests use a fake."""

    recipe: Recipe
    identity: str
    width: int
    batch: int

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class Encoder:
    """An exported encoder, ready to run. Make one with `Encoder.open`."""

    def __init__(self, session: Any, info: ModelInfo, folder: Path, *, backend: str) -> None:
        self.session = session
        self.info = info
        self.folder = folder
        self.backend = backend
        self.recipe = info.encoder.recipe
        self.identity = info.encoder.identity
        self.width = info.encoder.width
        self.batch = min(BATCH[backend], info.max_batch)

    @classmethod
    def open(cls, path: str | Path, *, backend: str = "auto", threads: int | None = None) -> "Encoder":
        """Open an export folder, or the run folder that holds one.

        `backend`: cpu, cuda, or auto (cuda where ONNX Runtime offers it). A named backend is used or refused:
        nothing falls back in silence. `threads`: of the CPU backend; all that this process may use if None.

        Raises ArtifactError (missing, damaged), ConfigError (backend), ExportMismatch (the probe disagrees).
        """
        folder = Path(path)
        if not (folder / MANIFEST_FILE).exists() and (folder / "export" / MANIFEST_FILE).exists():
            folder = folder / "export"
        if not (folder / MANIFEST_FILE).exists():
            raise ArtifactError(f"{folder}: holds no exported model. Make one with `simclr export`.")
        info = ModelInfo.load(folder / MANIFEST_FILE)
        if MODEL_FILE not in info.files or info.files[MODEL_FILE].precision not in COSINE_FLOOR:
            raise ArtifactError(
                f"{folder / MANIFEST_FILE}: lists no {MODEL_FILE} that this simclr can run. Run `simclr export` again."
            )
        model = folder / MODEL_FILE
        if file_sha256(model) != info.files[MODEL_FILE].sha256:
            raise ArtifactError(
                f"{model}: its SHA-256 is not the one in {MANIFEST_FILE}. Run `simclr export` again."
            )
        session, backend = open_session(model, backend=backend, threads=threads or available_cpus())
        encoder = cls(session, info, folder, backend=backend)
        encoder._check_probe()
        return encoder

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One batch: (N, size, size, 3) uint8 RGB, made by `recipe.apply` -> (N, width) float32, unit length."""
        vectors: NDArray[np.float32] = self.session.run(None, {"images": pixels})[0]
        return vectors

    def encode(self, images: OneImage | Sequence[OneImage] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Paths, Pillow images (one or several), or (N, size, size, 3) uint8 RGB -> (N, width) float32, unit length.

        Raises ImageError naming the first image that cannot be read.
        """
        if isinstance(images, (str, Path, Image.Image, Picture)):
            images = [images]
        if isinstance(images, np.ndarray):
            size = self.recipe.size
            if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
                raise ConfigError(
                    f"images of shape {images.shape} and dtype {images.dtype}: this encoder takes (N, {size}, {size}, 3) uint8."
                )
            batches = (images[i : i + self.batch] for i in range(0, len(images), self.batch))
        else:
            batches = (
                np.stack([self._pixels(image) for image in images[i : i + self.batch]])
                for i in range(0, len(images), self.batch)
            )
        return np.concatenate([np.empty((0, self.width), np.float32), *map(self, batches)])

    def _pixels(self, image: OneImage) -> NDArray[np.uint8]:
        if isinstance(image, (str, Path)):
            image = open_picture(Path(image), self.recipe)
        elif isinstance(image, Image.Image):
            return self.recipe.apply(upright(image))
        return self.recipe.apply(image.image)

    def _check_probe(self) -> None:
        path = self.folder / PROBE_FILE
        if file_sha256(path) != self.info.probe_sha256:
            raise ArtifactError(
                f"{path}: its SHA-256 is not the one in {MANIFEST_FILE}. Run `simclr export` again."
            )
        with np.load(path) as probe:
            images, expected = probe["images"], probe["embeddings"]
        cosine = (self.encode(images) * expected).sum(1)
        floor = COSINE_FLOOR[self.info.files[MODEL_FILE].precision]
        if not cosine.min() >= floor:  # also catches nan
            raise ExportMismatch(
                f"{self.folder}: on {self.backend}, probe image {int(cosine.argmin())} has cosine {cosine.min():.6f} to its embedding "
                f"at export, below {floor}. This runtime computes something else: use another --backend, or export again."
            )


def newest_export() -> Path:
    """The export folder written last below `runs/` and `export/`. Raises ArtifactError if there is none."""
    found = [*Path("runs").glob(f"*/export/{MANIFEST_FILE}"), *Path("export").glob(f"*/{MANIFEST_FILE}")]
    if not found:
        raise ArtifactError(
            "runs/: no exported model. Make one with `simclr export`, or give one with --model."
        )
    return max(found, key=lambda path: path.stat().st_mtime).parent


def open_picture(path: Path, recipe: Recipe) -> Picture:
    """Decode one image file, as far as the recipe needs its pixels. Raises ImageError with the path."""
    try:
        return decode(path.read_bytes(), enough=recipe.enough)
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read ({exc.strerror or exc}).") from exc
    except ImageError as exc:
        raise ImageError(f"{path}: {exc}.") from exc


def open_session(model: Path, *, backend: str = "cpu", threads: int) -> tuple[Any, str]:
    """An ONNX Runtime session on exactly one backend, and that backend's name.

    ONNX Runtime by itself goes on with the CPU where a GPU provider fails, printing at most a warning; here
    that is a ConfigError. Raises ArtifactError where the file is no model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", "cpu") from None
    available = onnxruntime.get_available_providers()
    if backend == "auto":
        backend = "cuda" if _PROVIDERS["cuda"] in available else "cpu"
    if backend not in _PROVIDERS:
        raise ConfigError(f"backend {backend!r} is unknown. Use one of: auto, {', '.join(_PROVIDERS)}.")
    provider = _PROVIDERS[backend]
    if provider not in available:
        raise ConfigError(
            f"backend {backend} is not in this onnxruntime. Run: pip install 'simclr-toolkit[gpu]', or use --backend cpu."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    if backend != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        onnxruntime.preload_dlls()
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=[provider], enable_fallback=0)
    except Exception as exc:  # ONNX Runtime's own classes derive from Exception and are not all public
        if backend == "cpu":
            raise ArtifactError(
                f"{model}: ONNX Runtime cannot open it ({reason(exc)}). Export it again."
            ) from exc
        raise ConfigError(
            f"backend {backend} cannot run {model.name} ({reason(exc)}). Use --backend cpu."
        ) from exc
    session.disable_fallback()
    if session.get_providers()[0] != provider:
        raise ConfigError(
            f"backend {backend} was asked for, but ONNX Runtime chose {session.get_providers()[0]}. Use --backend cpu."
        )
    return session, backend

"""Open an exported model: uint8 images -> unit-length float32 vectors. No torch.

Every opening runs the probe that lies beside the model and compares it with the embeddings found at export, so
that a runtime which computes something else is found out before it fills a store.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr.artifacts import ModelInfo
from simclr.errors import ConfigError, ImageError
from simclr.images import Picture, decode, upright
from simclr.preprocess import Recipe
from simclr.runtime.backends import Engine, choose
from simclr.runtime.model_files import open_folder
from simclr.runtime.probe import check_probe

BATCH = {"ort-cpu": 8, "ort-cuda": 256, "ort-trt": 256, "trt": 256}
"""Images a call by backend. CPU, ResNet-50 at 224 px on 2 cores: 1 35/s, 4 39/s, 8 38/s, 32 35/s."""

OneImage = str | Path | Image.Image | Picture


class Encodes(Protocol):
    """What embedding and searching need of an encoder; tests use a fake."""

    recipe: Recipe
    identity: str
    width: int
    batch: int

    @property
    def backend(self) -> str: ...

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]: ...

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]: ...


class Encoder:
    """An exported encoder, ready to run. Make one with `Encoder.open`."""

    def __init__(self, engine: Engine, info: ModelInfo, folder: Path, *, precision: str, choice: str) -> None:
        self.engine = engine
        self.info = info
        self.folder = folder
        self.precision = precision
        self.choice = choice
        """One line: backend and precision, and what kept better ones out."""
        self.recipe = info.encoder.recipe
        self.identity = info.encoder.identity
        self.width = info.encoder.width
        self.batch = min(BATCH[engine.backend], info.max_batch)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        backend: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        note: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """Open an export folder, or the run folder that holds one.

        `backend`: trt, ort-trt, ort-cuda, ort-cpu, or auto, the best that starts. `precision`: fp32, fp16, bf16, int8,
        int8-trt, or auto: fp16 on a GPU where it was exported, else fp32. What is named is used or refused: nothing
        falls back in silence. `threads`: of the CPU backend; all that this process may use if None. `note` gets a
        sentence where opening takes long, as for a plan that is built anew.

        Raises ArtifactError (missing, damaged, unusable), ConfigError (backend, precision), ExportMismatch (the probe
        disagrees), MissingExtra.
        """
        folder, info = open_folder(path)
        chosen = choose(folder, info, backend=backend, precision=precision, threads=threads, note=note)
        check_probe(chosen.engine, folder, info, chosen.precision)
        return cls(chosen.engine, info, folder, precision=chosen.precision, choice=chosen.words)

    @property
    def backend(self) -> str:
        return self.engine.backend

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One batch: (N, size, size, 3) uint8 RGB, made by `recipe.apply` -> (N, width) float32, unit length."""
        self._check_form(pixels)
        return self.engine(pixels)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """The same for one batch after another, in order; some may be empty. Copying and computing overlap on a GPU."""
        return self.engine.stream(map(self._checked, batches))

    def encode(self, images: OneImage | Sequence[OneImage] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Paths, Pillow images (one or several), or (N, size, size, 3) uint8 RGB -> (N, width) float32, unit length.

        Raises ImageError naming the first image that cannot be read.
        """
        if isinstance(images, (str, Path, Image.Image, Picture)):
            images = [images]
        if isinstance(images, np.ndarray):
            self._check_form(images)
            batches = (images[i : i + self.batch] for i in range(0, len(images), self.batch))
        else:
            batches = (
                np.stack([self._pixels(image) for image in images[i : i + self.batch]])
                for i in range(0, len(images), self.batch)
            )
        return np.concatenate([np.empty((0, self.width), np.float32), *self.engine.stream(batches)])

    def _checked(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self._check_form(pixels)
        return pixels

    def _check_form(self, images: NDArray[Any]) -> None:
        """Floats, perhaps normalised already, are never taken for pixels."""
        size = self.recipe.size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ConfigError(
                f"images of shape {images.shape} and dtype {images.dtype}: this encoder takes (N, {size}, {size}, 3) uint8."
            )

    def _pixels(self, image: OneImage) -> NDArray[np.uint8]:
        if isinstance(image, (str, Path)):
            image = open_picture(Path(image), self.recipe)
        elif isinstance(image, Image.Image):
            return self.recipe.apply(upright(image))
        return self.recipe.apply(image.image)


def open_picture(path: Path, recipe: Recipe) -> Picture:
    """Decode one image file, as far as the recipe needs its pixels. Raises ImageError with the path."""
    try:
        return decode(path.read_bytes(), enough=recipe.enough)
    except OSError as exc:
        raise ImageError(f"{path}: cannot be read ({exc.strerror or exc}).") from exc
    except ImageError as exc:
        raise ImageError(f"{path}: {exc}.") from exc

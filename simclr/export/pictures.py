"""The images an export is judged and calibrated by: drawn ones, the user's own, or those the run was trained on."""

import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr.cpus import available_cpus
from simclr.errors import ImageError, SimclrError
from simclr.images import decode
from simclr.preprocess import Recipe
from simclr.sources import Collection, open_collection

GALLERY = 1000
"""Images among which neighbours are compared."""
CALIBRATION = 256
"""Images that decide the ranges of INT8."""
PROBE = 16
_SEED = 2002_05709

Note = Callable[[str], None]
Pixels = NDArray[np.uint8]


def drawn_images(recipe: Recipe, count: int = PROBE) -> Pixels:
    """Images with structure at every scale, as photos have, always the same; the first sixteen are the probe."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    size = recipe.size
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) + 1 / size
    images = []
    for _ in range(count):
        noise = np.fft.rfft2(rng.standard_normal((3, size, size)))
        field = np.fft.irfft2(noise / frequency ** rng.uniform(0.8, 1.6), s=(size, size))
        field = (field - field.mean()) / (field.std() + 1e-9) * rng.uniform(30, 70) + rng.uniform(
            70, 180, (3, 1, 1)
        )
        images.append(np.clip(np.rint(field), 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return np.stack(images)


def gallery_images(check: str | None, run: Path | None, recipe: Recipe, *, note: Note) -> Pixels:
    """Up to 1,000 images of `check`, else of the data that `run` was trained on, else none.

    Raises ImageError if `check` holds no readable image, or is no source of images.
    """
    if check is not None:
        return _pick(open_collection(check, note=note), recipe, GALLERY, from_end=False)
    own = _own_data(run, note=note)
    return _none(recipe) if own is None else _pick(own, recipe, GALLERY, from_end=False)


def calibration_images(calibrate: str | None, run: Path | None, recipe: Recipe, *, note: Note) -> Pixels:
    """256 images of `calibrate`, else of the data that `run` was trained on, else the drawn ones, with a warning.

    Of a run's data, others than those of the gallery, where there are enough. Raises ImageError as above.
    """
    if calibrate is not None:
        return _pick(open_collection(calibrate, note=note), recipe, CALIBRATION, from_end=True)
    own = _own_data(run, note=note)
    if own is not None:
        note(f"calibrating INT8 with images of {own.name}")
        return _pick(own, recipe, CALIBRATION, from_end=True)
    note(
        "warning: INT8 is calibrated with drawn images, for want of real ones, and loses neighbours. Give a folder of a few "
        "hundred of your own with --calibrate."
    )
    return drawn_images(recipe, CALIBRATION)


def _own_data(run: Path | None, *, note: Note) -> Collection | None:
    """What a run was trained on, where that can still be read."""
    if run is None or not (run / "config.toml").exists():
        return None
    try:
        source = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"]
        train = Path(source) / "train"  # as `simclr pretrain` reads it
        return open_collection(str(train) if train.is_dir() else source, note=note)
    except (SimclrError, OSError, ValueError, KeyError) as exc:
        note(f"the images of this run cannot be read any more ({exc}); give others with --check")
        return None


def _pick(images: Collection, recipe: Recipe, count: int, *, from_end: bool) -> Pixels:
    """The first or last `count` readable images in an order that is drawn once and for all."""
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(len(images.names))
    pixels: list[Pixels] = []
    for block in _readable(images, recipe, order[::-1] if from_end else order, count):
        pixels += block
        if len(pixels) >= count:
            break
    if not pixels:
        raise ImageError(f"{images.name}: none of its images can be read.")
    return np.stack(pixels[:count])


def _readable(
    images: Collection, recipe: Recipe, order: NDArray[np.int64], count: int
) -> Iterable[list[Pixels]]:
    def load(i: int) -> Pixels | None:
        try:
            return recipe.apply(decode(images.read(i), enough=recipe.enough).image)
        except ImageError:
            return None  # a verdict needs some images, not all; embedding reports the bad ones

    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(order), count):
            found = pool.map(load, order[start : start + count].tolist())
            yield [image for image in found if image is not None]


def _none(recipe: Recipe) -> Pixels:
    return np.empty((0, recipe.size, recipe.size, 3), np.uint8)

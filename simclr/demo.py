"""The whole path on small images that it draws itself, by the same calls as the commands make.

Ten kinds of shapes, several to an image, in random colours, places, sizes and turns on a random texture: raw
pixels are a poor guide to the kind, while what crops and colour changes leave alone is a good one. Nobody
tells the encoder what the kinds are; they only serve to mark the result.
"""

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simclr import progress
from simclr.errors import ConfigError

SIZE = 32
TRAIN_PER_KIND = 160
TEST_PER_KIND = 40
_SHARPNESS = 4
"""Shapes are drawn this many times larger and averaged down."""

Polygon = list[tuple[float, float]]


def _regular(corners: int, radius: float = 1.0, *, x: float = 0.0) -> Polygon:
    turns = (2 * math.pi * i / corners for i in range(corners))
    return [(x + radius * math.cos(turn), radius * math.sin(turn)) for turn in turns]


def _rectangle(width: float, height: float, *, x: float = 0.0, y: float = 0.0) -> Polygon:
    w, h = width / 2, height / 2
    return [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]


_STAR = [
    (r * math.cos(math.pi * i / 5), r * math.sin(math.pi * i / 5)) for i, r in enumerate([1.2, 0.45] * 5)
]
_ARROW = [(-1.1, -0.22), (0.1, -0.22), (0.1, -0.8), (1.2, 0.0), (0.1, 0.8), (0.1, 0.22), (-1.1, 0.22)]

KINDS: dict[str, list[tuple[Polygon, bool]]] = {
    "arrow": [(_ARROW, True)],
    "bar": [(_rectangle(2.6, 0.56), True)],
    "crescent": [(_regular(40), True), (_regular(40, 0.85, x=0.5), False)],
    "cross": [(_rectangle(2, 0.6), True), (_rectangle(0.6, 2), True)],
    "disk": [(_regular(40), True)],
    "grid": [(_rectangle(0.72, 0.72, x=x, y=y), True) for x in (-0.55, 0.55) for y in (-0.55, 0.55)],
    "ring": [(_regular(40), True), (_regular(40, 0.55), False)],
    "square": [(_rectangle(1.7, 1.7), True)],
    "star": [(_STAR, True)],
    "triangle": [(_regular(3, 1.15), True)],
}
"""Polygons of each kind in a circle of radius 1, drawn in order; False cuts out."""


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    say: Callable[[str], Any] = print,
    note: Callable[[str], Any] = lambda line: None,
) -> dict[str, float]:
    """Draw, pretrain, export, embed, index, search; returns the kNN accuracy of raw pixels, untrained, trained.

    Everything lands in `out`. Raises ConfigError if `out` exists and no demo made it.
    """
    from simclr.embed import Index, Store, Workers, build_index, embed_sources
    from simclr.embed.gallery import write_gallery
    from simclr.export import export_model
    from simclr.pretrain import Augmentation, PretrainConfig, run

    started = time.monotonic()
    images = out / "images"
    if out.exists() and not (images / "train" / "arrow").is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out}: exists and is no demo. Use another --out.")
    shutil.rmtree(out, ignore_errors=True)
    drawn = draw_images(images, seed=seed)
    note(f"drew {drawn:,} images of {len(KINDS)} kinds: {images}")

    config = PretrainConfig(
        data=str(images),
        encoder="test_resnet",
        image_size=SIZE,
        batch_size=128,
        epochs=90,
        base_lr=12.0,
        augmentation=Augmentation(crop_min=0.5, blur=0.0),
        seed=seed,
    )
    with progress.show("pretrain") as update:
        trained_run = run(config, out=out / "run", progress=update, note=note)
    exports = {
        "untrained encoder": export_model(
            f"timm:{config.encoder}", image_size=SIZE, pretrained=False, out=out / "untrained"
        ).folder,
        "trained encoder": export_model(trained_run).folder,
    }

    accuracy = {"raw pixels": _raw_accuracy(images)}
    for name, export in exports.items():
        store_path = out / f"{export.parent.name if export.name == 'export' else export.name}.store"
        with progress.show(f"embed ({name})") as update:
            embed_sources([images], store_path, Workers(export), model=export, progress=update)
        store = Store.open(store_path)
        accuracy[name] = _store_accuracy(store)
    index_path = out / "demo.faiss"
    build_index(store, index_path)

    index = Index.open(index_path)
    queries = [str(images / "test" / kind / "0000.png") for kind in KINDS]
    results = list(zip(queries, index.search(list(queries), k=9), strict=True))
    write_gallery(out / "gallery.html", results, title="One query of each kind and its nearest images")

    say(f"kNN accuracy on {TEST_PER_KIND * len(KINDS)} images it never saw (chance {1 / len(KINDS):.0%}):")
    for name, value in accuracy.items():
        say(f"  {name:18} {value:6.1%}")
    say(f"loss curve   {trained_run / 'report.html'}")
    say(f"gallery      {out / 'gallery.html'}")
    say(f"index        {index_path}")
    note(f"took {time.monotonic() - started:.0f} s. next: simclr search {index_path} {queries[0]} -k 5")
    return accuracy


def draw_images(folder: Path, *, seed: int) -> int:
    """`folder`/{train,test}/KIND/0000.png; returns how many."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for split, count in (("train", TRAIN_PER_KIND), ("test", TEST_PER_KIND)):
        for kind in KINDS:
            (folder / split / kind).mkdir(parents=True)
            for i in range(count):
                draw_image(kind, rng).save(folder / split / kind / f"{i:04d}.png")
    return (TRAIN_PER_KIND + TEST_PER_KIND) * len(KINDS)


def draw_image(kind: str, rng: np.random.Generator) -> Image.Image:
    """Three to five shapes of one kind on a texture, (SIZE, SIZE) RGB."""
    shape = _shapes(kind, rng)[..., None]
    while True:  # two colours that can be told apart also in grey
        inside, outside = rng.uniform(0, 255, (2, 3))
        if abs((inside - outside) @ (0.299, 0.587, 0.114)) > 90:
            break
    inside = inside + _texture(rng) * rng.uniform(-30, 30, 3)
    outside = outside + _texture(rng) * rng.uniform(-45, 45, 3)
    return Image.fromarray(np.clip(shape * inside + (1 - shape) * outside, 0, 255).astype(np.uint8))


def _shapes(kind: str, rng: np.random.Generator) -> NDArray[np.floating[Any]]:
    """Where the shapes are, (SIZE, SIZE) in 0..1; they do not overlap."""
    side = SIZE * _SHARPNESS
    mask = Image.new("L", (side, side))
    placed: list[tuple[float, float, float]] = []
    wanted = int(rng.integers(3, 6))
    for _ in range(60):
        if len(placed) == wanted:
            break
        radius = rng.uniform(0.13, 0.26) * side
        x, y = rng.uniform(0.7 * radius, side - 0.7 * radius, 2)
        turn = rng.uniform(0, 2 * math.pi)
        if any(math.hypot(x - a, y - b) < 1.05 * (radius + c) for a, b, c in placed):
            continue
        placed.append((x, y, radius))
        stamp = Image.new("L", (side, side))
        pen = ImageDraw.Draw(stamp)
        for polygon, filled in KINDS[kind]:
            pen.polygon(_moved(polygon, x, y, radius, turn), fill=255 if filled else 0)
        mask.paste(255, mask=stamp)
    return np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255


def _moved(polygon: Polygon, x: float, y: float, radius: float, turn: float) -> Polygon:
    c, s = radius * math.cos(turn), radius * math.sin(turn)
    return [(x + c * px - s * py, y + s * px + c * py) for px, py in polygon]


def _texture(rng: np.random.Generator) -> NDArray[np.float64]:
    """1/f noise in -1..1, (SIZE, SIZE, 1)."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)) + 1 / SIZE
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIZE, SIZE))) / frequency, s=(SIZE, SIZE))
    texture: NDArray[np.float64] = np.tanh((noise - noise.mean()) / noise.std() / 2)[..., None]
    return texture


def _store_accuracy(store: Any) -> float:
    """kNN accuracy of a store: rows below test/ are marked by those below train/."""
    vectors = np.concatenate([block for _, block in store.blocks()])
    return _accuracy([row.image_path for row in store.rows()], vectors)


def _raw_accuracy(images: Path) -> float:
    """The same on pixels, taken as vectors around mid-grey."""
    paths = sorted(images.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path), np.float32).ravel() for path in paths]) / 127.5 - 1
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    return _accuracy([path.relative_to(images).as_posix() for path in paths], unit)


def _accuracy(paths: list[str], vectors: NDArray[np.float32]) -> float:
    from simclr.classify.knn import knn_predict

    splits, kinds = np.array([path.split("/")[:2] for path in paths]).T
    labels = np.searchsorted(sorted(KINDS), kinds)
    train, test = splits == "train", splits == "test"
    predicted = knn_predict(vectors[train], labels[train], vectors[test])
    return float((predicted == labels[test]).mean())

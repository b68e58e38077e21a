"""ResNet-18 on images of 32 pixels from a cache on the device: views a second, and those of the pipeline alone.

The pixels are random unless `--cifar` gives images; then a short run through `simclr.pretrain.run` follows, with kNN at its end.
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from gpu_checks.rows import Goal, Place, Row
from gpu_checks.timing import free, peak_bytes, seconds
from gpu_checks.workload import Ours
from simclr.errors import ConfigError
from simclr.pretrain import PretrainConfig, run
from simclr.pretrain.cache import ImageCache
from simclr.pretrain.config import Augmentation
from simclr.pretrain.data import Crops, TwoCrops
from simclr.sources.collection import Files
from simclr.sources.names import Names

SIZE = 32
_AUGMENTATION = Augmentation(strength=0.5, blur=0.0)
"""google-research/simclr, README, CIFAR-10."""
_EPOCHS = 10


def check(place: Place) -> Iterator[Row]:
    if place.cifar and not Path(place.cifar).exists():
        raise ConfigError(
            f"--cifar {place.cifar}: not there. Give a folder with a folder a class, or an .npz."
        )
    free()
    images, batch = (256, 32) if place.quick else (50_000, 512)
    encoder, steps = ("test_resnet", 2) if place.quick else ("resnet18", 50)
    ours = Ours(place, encoder, SIZE, batch, compiled=True)
    ours.augmentation = _AUGMENTATION
    loader = cached_batches(place, batch, images=images)

    def complete() -> None:
        ours.whole_step(next(loader).pixels, batch)

    def pipeline() -> None:
        ours.views_of(next(loader).pixels, batch).views(0)
        ours.number += 1

    for _ in range(3):
        complete()
    rates: dict[str, tuple[float, ...]] = {"complete": (), "pipeline alone": ()}
    peak = peak_bytes(complete, place.device)
    for _ in range(place.rounds):
        for name, work in (("complete", complete), ("pipeline alone", pipeline)):
            rates[name] += (2 * batch / seconds(work, place.device, times=steps),)
    name = f"{encoder}, {SIZE} px, batch {batch}"
    yield Row(f"{name}, complete", rates["complete"], "views/s", Goal("at least", 40_000))
    yield Row(f"{name}, crops + recolour alone", rates["pipeline alone"], "views/s")
    yield Row(f"{name}: peak", (peak / 1e9,), "GB")
    if place.cifar:
        del ours, loader
        free()
        yield from _real_run(place, encoder, batch, Path(place.cifar))


def cached_batches(place: Place, batch: int, *, images: int) -> Iterator[Crops]:
    """Without end: crops of random images that lie on the device, as a run's cache makes them."""
    torch.manual_seed(place.seed)
    pixels = torch.randint(0, 256, (images, SIZE, SIZE, 3), dtype=torch.uint8, device=place.device)
    cache = ImageCache(pixels, np.full((images, 2), SIZE), np.arange(images), [])
    named = Files("random", Names.of(f"{number}.png" for number in range(images)), "")
    dataset = TwoCrops(named, seed=place.seed, batch_size=batch, size=SIZE, augmentation=_AUGMENTATION)
    return cache.batches(dataset, steps=range(10**9), images=range(batch), device=torch.device(place.device))


def _real_run(place: Place, encoder: str, batch: int, given: Path) -> Iterator[Row]:
    """A run as a user starts it; its speed from its own clock, without the first steps, which compile."""
    with tempfile.TemporaryDirectory() as below:
        data = given if given.is_dir() else unpack(given, Path(below) / "data", place)
        config = PretrainConfig(
            data=str(data), encoder=encoder, image_size=SIZE, batch_size=batch, epochs=1 if place.quick else _EPOCHS,
            temperature=0.5, base_lr=1.0, head_layers=3, weight_decay=1e-4, augmentation=_AUGMENTATION,
            seed=place.seed, device=place.device, eval=str(data), compile=not place.quick,
            threads=torch.get_num_threads() if place.device == "cpu" else None,
        )  # fmt: skip
        out = run(config, out=Path(below) / "run")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = tuple(2 * batch / line["seconds"] for line in lines[min(20, len(lines) // 2) :])
    knn = next(line["knn"] for line in reversed(lines) if "knn" in line)
    yield Row(f"{given.name}, a run of {config.epochs} epochs", rates, "views/s", note="of single steps")
    yield Row(f"{given.name}, kNN at its end", (100 * knn,), "%")


def unpack(given: Path, folder: Path, place: Place) -> Path:
    """Class folders from an .npz with, for each part ("train", "test"): `jpeg_PART` (all files' bytes as uint8),
    `offsets_PART` (N + 1), `y_PART` (N,); and `classes`, their names."""
    with np.load(given) as packed:
        missing = {"classes", "jpeg_train", "offsets_train", "y_train"} - set(packed.files)
        if missing:
            raise ConfigError(
                f"--cifar {given}: has no {', '.join(sorted(missing))}. Give class folders instead."
            )
        names = [str(name) for name in packed["classes"]]
        for part in ("train", "test"):
            if f"jpeg_{part}" not in packed:
                continue
            data, offsets, classes = (packed[f"{what}_{part}"] for what in ("jpeg", "offsets", "y"))
            count = min(len(classes), 128 if place.quick else len(classes))
            for name in names:
                (folder / part / name).mkdir(parents=True)
            for number in range(count):
                file = folder / part / names[classes[number]] / f"{number:05d}.jpg"
                file.write_bytes(data[offsets[number] : offsets[number + 1]].tobytes())
    return folder

"""Claim: on the CPU our views of small images in memory are made at 3 times lightly's rate or more. No claim yet at
224 px, from JPEG files: the report says how the two compare.

    python benchmarks/views_cpu.py [--photos FOLDER] [--rounds N] [--seconds S] [--threads N]

From decoded images in memory (32 px) or JPEG files (224 px) to normalised float tensors in the training process. lightly's
transform runs in a torch DataLoader of two workers; ours in the training process at 32 px (as a run with its cache does), in two
workers and the training process at 224. All have the same cores.
"""

import argparse
import functools
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from numpy.typing import NDArray
from PIL import Image
from reporting import Row, in_fresh_process, lost, middle, ratio, rounds, short, spread, write
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from simclr.cpus import available_cpus
from simclr.pretrain.batch import Batch
from simclr.pretrain.cache import ImageCache
from simclr.pretrain.config import Augmentation
from simclr.pretrain.data import Crops, TwoCrops, batches
from simclr.sources import list_images
from simclr.sources.collection import Files
from simclr.sources.names import Names

SMALL, LARGE = 32, 224
IMAGES, PHOTOS, WORKERS = 4096, 200, 2
AHEAD = 6
"""Batches that workers may still prepare when the last one is counted: they work to the end."""
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
WITHOUT_BLUR = Augmentation(strength=0.5, blur=0.0)
"""The reference's for CIFAR-10; lightly's for it is the same."""


def smooth(count: int, height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Images (height, width, 3) whose spectrum falls off as a photo's does."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 1 / width
    for _ in range(count):
        noise = np.fft.rfft2(rng.standard_normal((3, height, width))) / frequency
        field = np.fft.irfft2(noise, s=(height, width))
        yield np.clip(field / field.std() * 50 + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def small_images() -> NDArray[np.uint8]:
    """(IMAGES, 32, 32, 3)."""
    return np.stack(list(smooth(IMAGES, SMALL, SMALL)))


def our_crops(pixels: NDArray[np.uint8], batch: int, steps: int) -> Iterator[Crops]:
    """Batches of crops from images in memory, as a run with its cache in memory makes them."""
    images = len(pixels)
    cache = ImageCache(
        torch.from_numpy(pixels), np.full((images, 2), SMALL, np.int64), np.arange(images), unreadable=[]
    )
    named = Files("in memory", Names.of(map(str, range(images))), "")
    dataset = TwoCrops(named, seed=0, batch_size=batch, size=SMALL, augmentation=WITHOUT_BLUR)
    return cache.batches(dataset, steps=range(steps), images=range(batch), device=torch.device("cpu"))


def our_batch(crops: Crops, step: int, augmentation: Augmentation, kind: type[Batch] = Batch) -> Batch:
    size = crops.pixels.shape[1]
    mean, std = MEAN.view(1, 3, 1, 1), STD.view(1, 3, 1, 1)
    return kind(
        crops.pixels, seed=0, step=step, batch_size=size, chunk=size, augmentation=augmentation, mean=mean, std=std
    )  # fmt: skip


class Transformed(Dataset[list[Tensor]]):
    """Images in memory, or files, through lightly's transform."""

    def __init__(self, images: list[Image.Image] | list[Path], transform: SimCLRTransform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> list[Tensor]:
        image = self.images[i]
        opened = Image.open(image).convert("RGB") if isinstance(image, Path) else image
        views: list[Tensor] = self.transform(opened)
        return views


def lightly_views(
    images: list[Image.Image] | list[Path], transform: SimCLRTransform, batch: int, steps: int
) -> Iterable[list[Tensor]]:
    dataset = Transformed(images, transform)
    sampler = RandomSampler(dataset, replacement=True, num_samples=batch * steps)
    return DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=WORKERS, drop_last=True)


def lightly_small(pixels: NDArray[np.uint8], batch: int, steps: int) -> Iterable[list[Tensor]]:
    transform = SimCLRTransform(input_size=SMALL, cj_strength=0.5, gaussian_blur=0.0)
    return lightly_views([Image.fromarray(image) for image in pixels], transform, batch, steps)


# ---- one contender, in a process of its own


def rate(views: Iterable[object], *, batch: int, seconds: float) -> float:
    """Views a second once the batches that were prepared beforehand are used up, for at least so long."""
    stream = iter(views)
    for _ in range(AHEAD):
        next(stream)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds or done < 2:
        next(stream)
        done += 1
    return 2 * batch * done / spent


ENDLESS = 100_000
"""Batches; none of the pipelines makes more than it is asked for and a few ahead."""


def measure_here(contender: str, size: int, batch: int, photos: Path, seconds: float) -> float:
    if size == SMALL:
        pixels = small_images()
        if contender == "lightly":
            return rate(lightly_small(pixels, batch, ENDLESS), batch=batch, seconds=seconds)
        found = our_crops(pixels, batch, ENDLESS)
        augmentation = WITHOUT_BLUR
    else:
        paths = list_images(photos)
        if contender == "lightly":
            files = [photos / path for path in paths]
            views = lightly_views(files, SimCLRTransform(input_size=LARGE), batch, ENDLESS)
            return rate(views, batch=batch, seconds=seconds)
        augmentation = Augmentation()
        images = Files(str(photos), Names.of(paths), str(photos))
        dataset = TwoCrops(images, seed=0, batch_size=batch, size=LARGE, augmentation=augmentation)
        found = batches(dataset, steps=range(ENDLESS), images=range(batch), workers=WORKERS, pin=False)
    ours = (our_batch(crops, step, augmentation).views(0) for step, crops in enumerate(found))
    return rate(ours, batch=batch, seconds=seconds)


# ---- all of them


def collect(target: Path, source: Path | None) -> str:
    """JPEG files in `target`; says what they are."""
    target.mkdir()
    if source is None:
        for i, pixels in enumerate(smooth(PHOTOS, 375, 500)):
            Image.fromarray(pixels).save(target / f"{i:04d}.jpg", quality=90)
        return f"{PHOTOS} drawn JPEGs of 500x375"
    paths = list_images(source)[:PHOTOS]
    for i, path in enumerate(paths):
        shutil.copyfile(source / path, target / f"{i:04d}{Path(path).suffix}")
    return f"{len(paths)} photos of {source.name}/"


def all_of_them(options: argparse.Namespace) -> None:
    work = Path(tempfile.mkdtemp())
    tables, figures = [], {}
    try:
        data = collect(work / "photos", options.photos)
        for size, batch in ((SMALL, 256), (LARGE, 64)):

            def one(contender: str, size: int = size, batch: int = batch) -> float:
                words = [
                    "--one", contender, "--size", str(size), "--batch", str(batch), "--photos", str(work / "photos"),
                    "--seconds", str(options.seconds), "--threads", str(options.threads),
                ]  # fmt: skip
                views: float = in_fresh_process(words, huge_pages=contender == "simclr")
                return views

            found: dict[str, list[float]] = rounds(
                {name: functools.partial(one, name) for name in ("simclr", "lightly")}, times=options.rounds + 1
            )  # fmt: skip
            found = {name: values[1:] for name, values in found.items()}  # the first one warms up
            rows = [
                f"| {name} | {spread(values)} | {ratio(found['simclr'], values):.2f} |"
                for name, values in found.items()
            ]
            figures[f"{size} px"] = found
            source = "images in memory, no blur" if size == SMALL else "JPEG files, with blur"
            tables.append(
                f"## {size} px, batch {batch}, from {source}\n\n| | views/s | simclr is |\n|---|---|---|\n"
                + "\n".join(rows)
            )
    finally:
        shutil.rmtree(work)
    write(
        "views_cpu",
        claim="Making SimCLR's views on the CPU",
        data=f"{IMAGES} drawn images of 32x32 in memory; {data}",
        packages=["torch", "torchvision", "pillow", "simplejpeg", "lightly"],
        body="\n\n".join(tables)
        + f"\n\nMedian (range) of {options.rounds} rounds in turn, each in a fresh process and for {options.seconds:g} s after "
        f"{AHEAD} batches. To normalised float tensors in the training process. lightly: SimCLRTransform in a DataLoader of "
        f"{WORKERS} workers; simclr: {options.threads} threads at {SMALL} px, {WORKERS} workers and {options.threads} threads at {LARGE}.",
        rows=summary(*figures.values()),
        figures=figures,
    )


def summary(small: dict[str, list[float]], large: dict[str, list[float]]) -> list[Row]:
    faster, large_faster = (ratio(found["simclr"], found["lightly"]) for found in (small, large))
    return [
        Row(
            f"making views on {available_cpus()} cores: {SMALL} px from memory",
            f"{middle(small['simclr'])} /s",
            f"lightly's transform, {WORKERS} workers {middle(small['lightly'])} /s",
            short(faster) + lost(faster < 3, "below the 3 asked"),
        ),
        Row(
            f"the same, {LARGE} px from JPEG files with blur" + lost(large_faster < 1),
            f"{middle(large['simclr'])} /s",
            f"{middle(large['lightly'])} /s",
            short(large_faster),
            "float32 colours and blur; made for a GPU",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help=f"folder of photos instead of {PHOTOS} drawn ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="that each contender is measured for")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of torch")
    parser.add_argument("--one", choices=["simclr", "lightly"], help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if not options.one:
        all_of_them(options)
        return
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        json.dumps(measure_here(options.one, options.size, options.batch, options.photos, options.seconds)),
        flush=True,
    )


if __name__ == "__main__":
    main()

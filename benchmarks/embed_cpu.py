"""Claim: embedding a folder of photos on CPU runs at 90 % or more of ONNX Runtime's own rate on ready tensors
with the same threads, and at 1.8 times or more a plain timm + DataLoader script.

    python benchmarks/embed_cpu.py [FOLDER]      default: photos drawn here, 500 x 375
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from reporting import ratio, rounds, spread, write

from simclr.cpus import available_cpus
from simclr.embed import embed_folders
from simclr.export import export_model
from simclr.runtime import Encoder
from simclr.sources import list_images

IMAGES, WARM_UP, ROUNDS = 512, 64, 3


def collect(target: Path, source: Path | None) -> str:
    """At least IMAGES files in `target`; says what they are."""
    target.mkdir()
    if source is None:
        rng = np.random.default_rng(0)
        frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500)) + 1 / 500
        for i in range(IMAGES):
            field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, 375, 500))) / frequency, s=(375, 500))
            pixels = np.clip(field / field.std() * 50 + 128, 0, 255).astype(np.uint8)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(target / f"{i:04d}.jpg", quality=90)
        return f"{IMAGES} drawn JPEGs of 500x375"
    paths = list_images(source)
    for i in range(IMAGES):
        shutil.copyfile(
            source / paths[i % len(paths)], target / f"{i:04d}{Path(paths[i % len(paths)]).suffix}"
        )
    return f"{len(paths)} photos of {source.name}/, repeated to {IMAGES}"


class Steady:
    """Images a second from the first progress call at or after WARM_UP to the last."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.last = (0, 0.0)

    def __call__(self, done: int, total: int, words: str = "") -> None:
        self.last = (done, time.perf_counter())
        if self.first is None and done >= WARM_UP:
            self.first = self.last

    def rate(self) -> float:
        assert self.first is not None
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def ready_tensors(encoder: Encoder, photos: Path) -> float:
    pixels = np.stack([encoder._pixels(photos / path) for path in list_images(photos)[: encoder.batch]])
    steady = Steady()
    for done in range(encoder.batch, IMAGES // 2 + 1, encoder.batch):
        encoder(pixels)
        steady(done, IMAGES)
    return steady.rate()


def folder(encoder: Encoder, photos: Path, work: Path) -> float:
    steady = Steady()
    store = work / "bench.store"
    shutil.rmtree(store, ignore_errors=True)
    embed_folders([photos], store, encoder, model=encoder.folder, progress=steady)
    return steady.rate()


class Photos(torch.utils.data.Dataset):
    def __init__(self, root: Path, transform) -> None:
        self.paths, self.transform = sorted(root.iterdir()), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


def plain_script(model: torch.nn.Module, photos: Path, batch: int, workers: int) -> float:
    """What one writes in ten minutes: timm's own transform, a DataLoader, inference mode."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    loader = torch.utils.data.DataLoader(Photos(photos, transform), batch_size=batch, num_workers=workers)
    steady, done = Steady(), 0
    with torch.inference_mode():
        for images in loader:
            torch.nn.functional.normalize(model(images)).numpy()
            done += len(images)
            steady(done, IMAGES)
    return steady.rate()


def main() -> None:
    torch.set_num_threads(available_cpus())
    work = Path(tempfile.mkdtemp())
    try:
        data = collect(work / "photos", Path(sys.argv[1]) if len(sys.argv) > 1 else None)
        export = export_model("timm:resnet50", pretrained=False, out=work / "export").folder
        encoder = Encoder.open(export)
        model = timm.create_model("resnet50", num_classes=0).eval()
        photos = work / "photos"
        contenders = {
            "ONNX Runtime on ready tensors": lambda: ready_tensors(encoder, photos),
            "simclr embed": lambda: folder(encoder, photos, work),
            "timm + DataLoader, batch 32, 2 workers": lambda: plain_script(model, photos, 32, 2),
            "timm + DataLoader, batch 8, 1 worker": lambda: plain_script(model, photos, 8, 1),
        }
        found = rounds(contenders, times=ROUNDS)
    finally:
        shutil.rmtree(work)
    ours = found["simclr embed"]
    rows = "\n".join(f"| {name} | {spread(rate)} | {ratio(ours, rate):.2f} |" for name, rate in found.items())
    write(
        "embed_resnet50_cpu_fp32",
        claim="Embedding a folder of photos on CPU, ResNet-50 at 224 px",
        data=data,
        packages=["onnxruntime", "torch", "timm", "pillow", "simplejpeg"],
        body=(
            f"| | images/s | simclr embed is |\n|---|---|---|\n{rows}\n\nMedian (range) of {ROUNDS} rounds taken in turn, steady "
            f"state (from image {WARM_UP} on), decoding, resizing and writing the store included, {available_cpus()} threads each."
        ),
    )


if __name__ == "__main__":
    main()

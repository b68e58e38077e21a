"""Claim: embedding a folder of photos on a CPU runs at 90 % or more of ONNX Runtime's own rate on ready tensors with the same
threads, at 2 times or more a plain timm + DataLoader script and lightly-train's `embed`, and with INT8 at 2 times our fp32.

    embed_cpu.py [FOLDER] [--lightly-python PATH] [--export FOLDER] [--quick]

Default: photos drawn here, 500 x 375. Every contender is a program that is timed from outside on two folders; the difference
gives its steady rate, and what is left its start.

lightly-train is no dependency of ours and shares none with us: give the Python of an environment of its own, made by

    uv venv lt && uv pip install --python lt/bin/python lightly-train

`embed` of lightly-train takes only a checkpoint that its own `pretrain` wrote: two steps on eight photos make one.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pictures import linked, photos
from programs import embed, export, run, seconds
from reporting import Row, lost, middle, ratio, rounds, short, spread, write

from simclr.cpus import available_cpus

ROUNDS = 3
FP32, INT8 = "`simclr embed`, fp32", "`simclr embed --precision int8`"
READY_FP32, READY_INT8 = "ONNX Runtime on ready tensors, fp32", "ONNX Runtime on ready tensors, INT8"
BATCH_32, BATCH_8 = "timm + DataLoader, batch 32, 2 workers", "timm + DataLoader, batch 8, 1 worker"
LIGHTLY = "lightly-train embed"


@dataclass(frozen=True)
class Contender:
    sizes: tuple[int, int]
    """Images in the small and in the large folder, enough for ten seconds or so between them."""
    words: Callable[[Path, Path], list[str | Path]]
    """The command for a folder of photos, and a path that is not there yet, to write to."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path, help="JPEG photos [drawn]")
    parser.add_argument("--lightly-python", type=Path, help="Python of an environment with lightly-train")
    parser.add_argument("--export", type=Path, help="an export of timm:resnet50 with int8 [made anew]")
    parser.add_argument("--quick", action="store_true", help="a few images, one round, nothing written")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        data = photos(work / "photos", options.folder, 16 if options.quick else 832)
        calibrate = linked(work / "calibrate", work / "photos", 16 if options.quick else 128)
        model = options.export or export(
            "resnet50", work / "export", "--precision", "int8", "--calibrate", calibrate, "--accept"
        )
        contenders = ours(model)
        if options.lightly_python:
            contenders[LIGHTLY] = lightly(options.lightly_python, work)
        if options.quick:
            contenders = {name: Contender((8, 16), each.words) for name, each in contenders.items()}
        starts: dict[str, list[float]] = {name: [] for name in contenders}
        rates = rounds(
            {name: partial(steady, each, work, starts[name]) for name, each in contenders.items()},
            times=1 if options.quick else ROUNDS,
        )
    finally:
        shutil.rmtree(work)
    write(
        "embed_resnet50_cpu",
        claim="Embedding a folder of photos on CPU, ResNet-50 at 224 px",
        data=data,
        packages=["onnxruntime", "torch", "timm", "pillow", "simplejpeg"],
        body=body(rates, starts, version(options.lightly_python)),
        rows=summary(rates, "photos" if options.folder else "drawn photos of 500x375")
        if LIGHTLY in rates
        else (),
        figures={"images/s": rates, "seconds of starting": starts},
        keep=not options.quick,
    )


def ours(model: Path) -> dict[str, Contender]:
    """Our command, the runtime alone, and the plain script, which both are this file called with other words."""
    me: list[str | Path] = [sys.executable, __file__]
    return {
        READY_FP32: Contender((64, 448), lambda folder, out: [*me, "ready", model, "fp32", folder, out]),
        FP32: Contender((64, 448), lambda folder, out: embed(folder, out, model, "--precision", "fp32")),
        READY_INT8: Contender((64, 832), lambda folder, out: [*me, "ready", model, "int8", folder, out]),
        INT8: Contender((64, 832), lambda folder, out: embed(folder, out, model, "--precision", "int8")),
        BATCH_32: Contender((32, 128), lambda folder, out: [*me, "plain", "32", "2", folder, out]),
        BATCH_8: Contender((32, 128), lambda folder, out: [*me, "plain", "8", "1", folder, out]),
    }


def lightly(python: Path, work: Path) -> Contender:
    """lightly-train's command as its documentation has it, with its defaults, which mean batches of 128."""
    program = python.with_name("lightly-train")
    few = linked(work / "few", work / "photos", 8)
    common = ["accelerator=cpu", f"data={few}"]
    trained = work / "lightly"
    shortest = [
        "model=torchvision/resnet50",
        "method=simclr",
        "epochs=1",
        "batch_size=4",
        "num_workers=0",
        *common,
    ]
    run([program, "pretrain", f"out={trained}", *shortest])
    checkpoint = f"checkpoint={trained}/checkpoints/last.ckpt"
    return Contender(
        (128, 256),
        lambda folder, out: [program, "embed", f"data={folder}", f"out={out}.pt", checkpoint, common[0]],
    )


def version(python: Path | None) -> str:
    """What is said about lightly-train."""
    if python is None:
        return "lightly-train was not measured (--lightly-python was not given)."
    code = "from importlib.metadata import version as v; print(v('lightly-train'), v('torch'))"
    package, torch = run([python, "-c", code]).split()
    return f"lightly-train {package} with torch {torch}, torchvision/resnet50, its defaults, in an environment of its own."


def steady(contender: Contender, work: Path, starts: list[float]) -> float:
    """Images a second between the two folders; `starts` gets the seconds that a run on no image would take."""
    took = []
    for size in contender.sizes:
        folder = work / f"first{size}"
        if not folder.exists():
            linked(folder, work / "photos", size)
        out = work / "out"
        took.append(seconds(contender.words(folder, out)))
        shutil.rmtree(out, ignore_errors=True)
        out.with_suffix(".pt").unlink(missing_ok=True)
    small, large = contender.sizes
    rate = (large - small) / (took[1] - took[0])
    starts.append(took[0] - small / rate)
    return rate


def body(rates: dict[str, list[float]], starts: dict[str, list[float]], about_lightly: str) -> str:
    rows = "\n".join(
        f"| {name} | {spread(rate)} | {statistics.median(starts[name]):.1f} | {ratio(rates[FP32], rate):.2f} | {ratio(rates[INT8], rate):.2f} |"
        for name, rate in rates.items()
    )
    peers = {name: goal for name, goal in ((BATCH_32, 2.0), (BATCH_8, 2.0), (LIGHTLY, 2.0)) if name in rates}
    asked = [
        (f"{FP32} against {READY_FP32}", ratio(rates[FP32], rates[READY_FP32]), 0.9),
        (f"{INT8} against {READY_INT8}", ratio(rates[INT8], rates[READY_INT8]), 0.9),
        (f"{INT8} against {FP32}", ratio(rates[INT8], rates[FP32]), 2.0),
        *((f"{FP32} against {name}", ratio(rates[FP32], rates[name]), goal) for name, goal in peers.items()),
    ]
    goals = "\n".join(f"| {words} | {found:.2f} | {goal:g} |" for words, found, goal in asked)
    return (
        f"| | images/s | start, s | fp32 is | INT8 is |\n|---|---|---|---|---|\n{rows}\n\n"
        f"| ratio | found | asked |\n|---|---|---|\n{goals}\n\n"
        f"Median (range) of {len(rates[FP32])} rounds in turn, {available_cpus()} threads each. Each contender is a program, timed from outside on a "
        "small and a large folder: the rate is that of the images between them, with reading, decoding, resizing and "
        "writing included, and the start is the rest: imports, opening the model, our probe of it. "
        f"{about_lightly}"
    )


def summary(rates: dict[str, list[float]], photos: str) -> list[Row]:
    peers = {
        "lightly-train": LIGHTLY,
        "timm + DataLoader": BATCH_32,
        "tuned for it (batch 8, 1 worker)": BATCH_8,
    }
    against = {words: ratio(rates[FP32], rates[name]) for words, name in peers.items()}
    int8 = ratio(rates[INT8], rates[FP32])

    def limit(ours: str, runtime: str) -> str:
        reached = ratio(rates[ours], rates[runtime])
        return f"{middle(rates[runtime])} /s, ONNX Runtime on ready tensors: we reach {100 * reached:.0f} %{lost(reached < 0.9, 'below the 90 asked')}"

    return [
        Row(
            f"embedding {photos}, ResNet-50 at 224 px, fp32, {available_cpus()} cores",
            f"{middle(rates[FP32])} /s",
            "; ".join(
                f"{words} {middle(rates[name])} /s{lost(against[words] < 2, 'below the 2 asked')}"
                for words, name in peers.items()
            ),
            "; ".join(map(short, against.values())),
            limit(FP32, READY_FP32),
        ),
        Row(
            "the same with INT8",
            f"{middle(rates[INT8])} /s",
            "our fp32",
            short(int8) + lost(int8 < 2, "below the 2 asked"),
            limit(INT8, READY_INT8),
        ),
    ]


# ---- programs


def ready(model: Path, precision: str, folder: Path) -> None:
    """The runtime alone: one decoded batch again and again, as many images as the folder has."""
    import numpy as np

    from simclr.images import decode
    from simclr.runtime import Encoder

    encoder = Encoder.open(model, backend="ort-cpu", precision=precision)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    recipe = encoder.recipe
    pictures = [decode(path.read_bytes(), enough=recipe.enough) for path in paths[: encoder.batch]]
    pixels = np.stack([recipe.apply(picture.image) for picture in pictures])
    for _ in range(len(paths) // encoder.batch):
        encoder(pixels)


def plain(batch: int, workers: int, folder: Path, out: Path) -> None:
    """What one writes in ten minutes: timm's own transform, a DataLoader, inference mode."""
    import numpy as np
    import timm
    import torch
    from PIL import Image

    class Photos(torch.utils.data.Dataset):
        def __init__(self, paths: list[Path], transform) -> None:
            self.paths, self.transform = paths, transform

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> torch.Tensor:
            return self.transform(Image.open(self.paths[i]).convert("RGB"))

    torch.set_num_threads(available_cpus())
    model = timm.create_model("resnet50", num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    loader = torch.utils.data.DataLoader(Photos(paths, transform), batch_size=batch, num_workers=workers)
    with torch.inference_mode():
        vectors = [torch.nn.functional.normalize(model(images)).numpy() for images in loader]
    out.mkdir()
    np.save(out / "vectors.npy", np.concatenate(vectors))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ready", model, precision, folder, _]:
            ready(Path(model), precision, Path(folder))
        case ["plain", batch, workers, folder, out]:
            plain(int(batch), int(workers), Path(folder), Path(out))
        case _:
            main()

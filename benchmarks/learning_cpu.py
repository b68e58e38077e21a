"""Claim: with the same small encoder and the same images seen, features are not below lightly's SimCLR, and far above raw pixels.

    learning_cpu.py run OURS|LIGHTLY SEED --cifar cifar10.npz --out DIR    one run, a few minutes; what exists is kept
    learning_cpu.py report --cifar cifar10.npz --out DIR                   the report, and its curves

Accuracy: weighted vote of the nearest training images, all 50,000, on the 10,000 test images.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from reporting import write

from simclr.classify.knn import knn_predict
from simclr.cpus import available_cpus

ENCODER, SIZE, BATCH = "test_resnet", 32, 256
SEEDS = (0, 1, 2)
RECIPE = "small-images"
MARKS = 6
"""Points of a run at which accuracy is measured, on a fifth of the bank."""


def cifar(path: Path) -> dict[str, Any]:
    """Pixels (N, 32, 32, 3) uint8 and labels (N,) of both splits, from packed JPEGs."""
    packed = np.load(path)
    found: dict[str, Any] = {}
    for split in ("train", "test"):
        data, ends = packed[f"jpeg_{split}"], packed[f"offsets_{split}"]
        found[split] = np.stack(
            [np.asarray(Image.open(BytesIO(data[a:b].tobytes())).convert("RGB")) for a, b in pairwise(ends)]
        )
        found[f"y_{split}"] = packed[f"y_{split}"].astype(np.int64)
    return found


def accuracy(
    bank: NDArray[Any], queries: NDArray[Any], data: dict[str, Any], *, k: int, every: int = 1
) -> float:
    predicted = knn_predict(bank, data["y_train"][::every], queries, k=k)
    return float((predicted == data["y_test"]).mean())


def features(encoder: Any, pixels: NDArray[np.uint8], mean: Any, std: Any) -> NDArray[np.float32]:
    """(N, F) unit rows."""
    import torch

    encoder.eval()
    parts = []
    scale = [torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std)]
    with torch.no_grad():
        for start in range(0, len(pixels), 500):
            views = torch.from_numpy(pixels[start : start + 500]).permute(0, 3, 1, 2).float() / 255
            parts.append(
                encoder(((views - scale[0]) / scale[1]).contiguous(memory_format=torch.channels_last))
            )
    encoder.train()
    return torch.nn.functional.normalize(torch.cat(parts), dim=1).numpy()


def measure(encoder: Any, data: dict[str, Any], mean: Any, std: Any, *, every: int) -> dict[str, float]:
    bank = features(encoder, data["train"][::every], mean, std)
    queries = features(encoder, data["test"], mean, std)
    return {f"knn{k}": accuracy(bank, queries, data, k=k, every=every) for k in (5, 20)}


def ours(seed: int, args: argparse.Namespace, data: dict[str, Any]) -> dict[str, Any]:
    """The package's own run, on files; its checkpoints are measured afterwards."""
    from simclr.encoder import build_encoder, load_encoder
    from simclr.pretrain import PretrainConfig, run
    from simclr.pretrain.checkpoint import load_checkpoint
    from simclr.pretrain.config import with_settings
    from simclr.pretrain.recipe import load_recipe

    folder = args.out / "images"
    if not folder.exists():
        for number, pixels in enumerate(data["train"]):
            place = folder / str(data["y_train"][number])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:05}.png")
    steps = len(data["train"]) * args.epochs // BATCH + 1
    config = with_settings(
        load_recipe(RECIPE).apply(PretrainConfig(data=str(folder))),
        [
            f'encoder="{ENCODER}"', f"batch_size={BATCH}", f"epochs={args.epochs}", f"seed={seed}", f"threads={args.threads}",
            "checkpoint_every=" + str(steps // MARKS), "checkpoint_keep=20",
        ],
    )  # fmt: skip
    began = time.perf_counter()
    out = run(config, out=args.out / f"ours-{seed}", resume=True)
    seconds = time.perf_counter() - began
    encoder, info = load_encoder(out)
    recipe, curve = info.recipe, []
    twin = build_encoder(ENCODER, small_stem=info.small_stem)
    for path in sorted((out / "checkpoints").glob("step-*.pt")):
        state = load_checkpoint(path)
        weights = {
            name.removeprefix("encoder."): w for name, w in state.model.items() if name.startswith("encoder.")
        }
        twin.load_state_dict(weights)
        curve.append({"images": state.step * BATCH} | measure(twin, data, recipe.mean, recipe.std, every=5))
    final = measure(encoder, data, recipe.mean, recipe.std, every=1)
    return {"seconds": seconds, "images": steps * BATCH, "curve": curve, **final}


def lightly(seed: int, args: argparse.Namespace, data: dict[str, Any]) -> dict[str, Any]:
    """Its parts as its CIFAR-10 benchmark puts them together."""
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    from torch.utils.data import DataLoader, Dataset

    from simclr.encoder import build_encoder, wants_small_stem

    transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)

    class Views(Dataset[Any]):
        def __len__(self) -> int:
            return len(data["train"])

        def __getitem__(self, number: int) -> Any:
            return transform(Image.fromarray(data["train"][number]))

    def endless(loader: Any) -> Iterator[Any]:
        while True:
            yield from loader

    torch.manual_seed(seed)
    encoder = build_encoder(ENCODER, small_stem=wants_small_stem(ENCODER, SIZE))
    width = encoder.num_features
    head = SimCLRProjectionHead(width, width, 128)
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, lr=6e-2 * BATCH / 128, momentum=0.9, weight_decay=5e-4)
    steps = len(data["train"]) * args.epochs // BATCH + 1
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    criterion = NTXentLoss()
    loader = endless(DataLoader(Views(), BATCH, shuffle=True, drop_last=True, num_workers=args.workers))
    mean, std = IMAGENET_NORMALIZE["mean"], IMAGENET_NORMALIZE["std"]
    curve, spent = [], 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        first, second = next(loader)
        loss = criterion(head(encoder(first)), head(encoder(second)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        spent += time.perf_counter() - began
        if step % (steps // MARKS) == 0:
            curve.append({"images": step * BATCH} | measure(encoder, data, mean, std, every=5))
            print(f"lightly {seed}: {step}/{steps} loss {loss.item():.3f} {curve[-1]}", file=sys.stderr)
    final = measure(encoder, data, mean, std, every=1)
    return {"seconds": spent, "images": steps * BATCH, "curve": curve, **final}


def report(args: argparse.Namespace) -> None:
    data = cifar(args.cifar)
    raw = {}
    for name, centre in (("raw pixels", 0.0), ("raw pixels around mid-grey", 127.5)):
        bank, queries = (
            data[split].reshape(len(data[split]), -1).astype(np.float32) - centre
            for split in ("train", "test")
        )
        bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
        raw[name] = [accuracy(bank, queries, data, k=k) for k in (5, 20)]
    runs = {
        name: [json.loads((args.out / f"{name}-{seed}.json").read_text()) for seed in SEEDS]
        for name in ("ours", "lightly")
    }
    rows = [f"| {name} | {five:.3f} | {twenty:.3f} | | |" for name, (five, twenty) in raw.items()]
    for name, found in runs.items():
        cells = []
        for key in ("knn5", "knn20"):
            values = [one[key] for one in found]
            cells.append(f"{statistics.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        seconds = statistics.median(one["seconds"] for one in found)
        rows.append(f"| {name} | {cells[0]} | {cells[1]} | {found[0]['images']:,} | {seconds:,.0f} |")
    picture = Path(__file__).parent / "learning_cpu_2026-11.png"
    draw(runs, raw["raw pixels around mid-grey"][0], picture)
    write(
        "learning_cpu",
        claim="What a few minutes on a CPU teach a small encoder about CIFAR-10, against lightly's SimCLR",
        data="CIFAR-10, a recompressed copy of 50,000 + 10,000 images; without labels but for the vote",
        packages=["torch", "timm", "lightly"],
        body="| | kNN, 5 neighbours | 20 neighbours | images seen | seconds |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nMean (each of 3 seeds). The same encoder, timm's {ENCODER} (0.37 M weights), batch {BATCH}, one torch "
        f"thread each; seconds are of a shared machine and say little. Ours: `--recipe {RECIPE}`. lightly: SimCLRTransform and settings of its "
        "CIFAR-10 benchmark (SGD 0.06 x B/128, momentum 0.9, weight decay 5e-4, cosine, temperature 0.5), plain two forwards. All training images "
        f"vote on all test images, weighted exp(cosine / 0.07).\n\n![kNN accuracy over images seen]({picture.name})\n\nThe curves' accuracies are "
        "of a fifth of the bank.",
    )


def draw(runs: dict[str, list[dict[str, Any]]], raw: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("ours", "tab:blue"), ("lightly", "tab:orange")):
        for number, one in enumerate(runs[name]):
            points = [(p["images"] / 1000, p["knn5"]) for p in one["curve"]]
            axes.plot(
                *zip(*points, strict=True), "o-", color=colour, alpha=0.8, label=name if number == 0 else None
            )
    axes.axhline(raw, color="gray", linestyle="--", label="raw pixels around mid-grey, whole bank")
    axes.set(xlabel="thousand images seen", ylabel="kNN accuracy, 5 neighbours, a fifth of the bank")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", choices=("run", "report"))
    parser.add_argument("who", nargs="?", choices=("OURS", "LIGHTLY"))
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--workers", type=int, default=available_cpus())
    parser.add_argument("--images", type=int, help="only so many, for a trial")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.word == "report":
        return report(args)
    result = args.out / f"{args.who.lower()}-{args.seed}.json"
    if result.exists():
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    import torch

    torch.set_num_threads(args.threads)
    data = cifar(args.cifar)
    if args.images:
        data["train"], data["y_train"] = data["train"][: args.images], data["y_train"][: args.images]
    found = {"OURS": ours, "LIGHTLY": lightly}[args.who](args.seed, args, data)
    result.write_text(json.dumps(found))
    print(json.dumps({key: value for key, value in found.items() if key != "curve"}))


if __name__ == "__main__":
    main()

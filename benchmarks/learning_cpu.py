"""Claim: with the same encoder and the same images seen, features are not below lightly's SimCLR, and far above raw pixels.

    learning_cpu.py run OURS|LIGHTLY cifar|caltech SEED --data cifar10.npz --out DIR       one run, minutes; what exists is kept
    learning_cpu.py report --cifar cifar10.npz --caltech caltech40 --out DIR               the report, its curves and numbers

`--data` is an .npz of packed JPEGs or a folder for the original, which torchvision then fetches; for caltech a folder with
images/ and labels.csv. Accuracy is of the test images: a vote of the 20 nearest training images, and a linear probe.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from labelled_sets import LabelledSet, open_set
from learned import (
    NEIGHBOURS,
    centred_pixels,
    cpu_seconds,
    features,
    knn_accuracy,
    measured,
    probe_accuracy,
)
from reporting import Row, peak_megabytes, write

SEEDS = (0, 1, 2)
RECIPE = "small-images"
MARKS = 5
"""Points of a run at which accuracy is measured, on a fifth of a large bank."""
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar": {"encoder": "test_resnet", "batch": 256, "epochs": 3, "every": 5},
    "caltech": {"encoder": "test_resnet", "batch": 200, "epochs": 40, "every": 1},
}
PACKAGES = ["torch", "timm", "lightly"]


def steps_of(data: LabelledSet, settings: dict[str, Any]) -> int:
    return int(len(data.pixels["train"]) * settings["epochs"] // settings["batch"] + 1)


def ours(data: LabelledSet, settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The package's own run, on files; its checkpoints are measured afterwards."""
    from simclr.encoder import build_encoder, load_encoder
    from simclr.pretrain import PretrainConfig, run
    from simclr.pretrain.checkpoint import load_checkpoint
    from simclr.pretrain.config import with_settings
    from simclr.pretrain.recipe import load_recipe

    steps, batch = steps_of(data, settings), settings["batch"]
    images = data.write(args.out / args.set)
    config = with_settings(
        load_recipe(RECIPE).apply(PretrainConfig(data=str(images))),
        [
            f'encoder="{settings["encoder"]}"', "small_stem=false",
            f"image_size={data.size}", f"batch_size={batch}", f"epochs={settings['epochs']}", f"seed={args.seed}",
            f"threads={args.threads}", f"workers={args.workers}", f"checkpoint_every={steps // MARKS}", "checkpoint_keep=20",
        ],
    )  # fmt: skip
    began = cpu_seconds()
    out = run(config, out=args.out / f"{args.set}-ours-{args.seed}")
    spent, memory = cpu_seconds() - began, peak_megabytes()
    encoder, info = load_encoder(out)
    mean, std = info.recipe.mean, info.recipe.std
    twin = build_encoder(settings["encoder"], small_stem=False)
    curve = []
    for path in sorted((out / "checkpoints").glob("step-*.pt")):
        state = load_checkpoint(path)
        weights = {
            name.removeprefix("encoder."): w for name, w in state.model.items() if name.startswith("encoder.")
        }
        twin.load_state_dict(weights)
        curve.append(point(twin, data, mean, std, settings, step=state.step))
    return {
        "seconds": spent,
        "memory": memory,
        "images": steps * batch,
        "curve": curve,
        **measured(encoder, data, mean, std),
    }


def lightly(data: LabelledSet, settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Its parts as its CIFAR-10 benchmark puts them together."""
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    from torch.utils.data import DataLoader, Dataset

    from simclr.encoder import build_encoder

    transform = SimCLRTransform(input_size=data.size, cj_strength=0.5, gaussian_blur=0.0)

    class Views(Dataset[Any]):
        def __len__(self) -> int:
            return len(data.pixels["train"])

        def __getitem__(self, number: int) -> Any:
            return transform(data.image(number))

    def endless(loader: Any) -> Iterator[Any]:
        while True:
            yield from loader

    torch.manual_seed(args.seed)
    batch, steps = settings["batch"], steps_of(data, settings)
    encoder = build_encoder(settings["encoder"], small_stem=False)
    width = encoder.num_features
    head = SimCLRProjectionHead(width, width, 128)
    weights = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, lr=6e-2 * batch / 128, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    criterion = NTXentLoss()
    loader = endless(DataLoader(Views(), batch, shuffle=True, drop_last=True, num_workers=args.workers))
    mean, std = IMAGENET_NORMALIZE["mean"], IMAGENET_NORMALIZE["std"]
    curve, spent, memory = [], 0.0, 0.0
    for step in range(1, steps + 1):
        began = cpu_seconds()
        first, second = next(loader)
        loss = criterion(head(encoder(first)), head(encoder(second)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        spent += cpu_seconds() - began
        memory = memory or (
            peak_megabytes() if step == 10 else 0.0
        )  # before it is measured, which takes some
        if step % (steps // MARKS) == 0:
            curve.append(point(encoder, data, mean, std, settings, step=step))
            print(f"lightly {args.seed}: {step}/{steps} loss {loss.item():.3f} {curve[-1]}", file=sys.stderr)
    return {
        "seconds": spent,
        "memory": memory,
        "images": steps * batch,
        "curve": curve,
        **measured(encoder, data, mean, std),
    }


def point(
    encoder: Any, data: LabelledSet, mean: Any, std: Any, settings: dict[str, Any], *, step: int
) -> dict[str, Any]:
    """Of the curve."""
    every = settings["every"]
    bank = features(encoder, data.pixels["train"][::every], mean, std)
    queries = features(encoder, data.pixels["test"], mean, std)
    return {"images": step * settings["batch"], "knn": knn_accuracy(bank, queries, data, every=every)}


def report(args: argparse.Namespace) -> None:
    parts, rows_of_table, numbers, curves = [], [], {}, {}
    for name, place in (("cifar", args.cifar), ("caltech", args.caltech)):
        data, settings = open_set(name, place), SETTINGS[name]
        bank, queries = (centred_pixels(data.pixels[split]) for split in ("train", "test"))
        every = max(1, len(bank) // 5000)
        raw = {
            "knn": knn_accuracy(bank, queries, data),
            "probe": probe_accuracy(bank[::every], queries, data, every=every),
        }
        runs = {
            who: [json.loads((args.out / f"{name}-{who}-{seed}.json").read_text()) for seed in SEEDS]
            for who in ("ours", "lightly")
        }
        rows = [f"| raw pixels, around mid-grey | {raw['knn']:.3f} | {raw['probe']:.3f} | | |"]
        for who, found in runs.items():
            cells = [mean_and_each([one[key] for one in found]) for key in ("knn", "probe")]
            cost = [
                f"{statistics.median(one[key] for one in found):,.0f}{unit}"
                for key, unit in (("seconds", " s"), ("memory", " MB"))
            ]
            rows.append(f"| {who} | {' | '.join([*cells, *cost])} |")
        parts.append(
            f"## {data.name}\n\n{len(data.pixels['train']):,} images to learn from, {len(data.pixels['test']):,} to measure, {data.size} px; "
            f"{settings['encoder']} with the stem for large images, batch {settings['batch']}, "
            f"{runs['ours'][0]['images']:,} images seen.\n\n"
            f"| | kNN, {NEIGHBOURS} neighbours | linear probe | CPU time of training | peak memory |\n|---|---|---|---|---|\n"
            + "\n".join(rows)
        )
        numbers[name] = {"raw pixels": raw, **runs}
        means = {
            who: {key: statistics.mean(one[key] for one in found) for key in ("knn", "probe", "seconds")}
            for who, found in runs.items()
        }
        rows_of_table.append(
            Row(
                f"{data.name}, {settings['encoder']}, {runs['ours'][0]['images']:,} images seen without labels, 3 seeds: kNN with {NEIGHBOURS} neighbours, linear probe",
                f"{means['ours']['knn']:.3f}, {means['ours']['probe']:.3f}",
                f"lightly's SimCLR {means['lightly']['knn']:.3f}, {means['lightly']['probe']:.3f}; raw pixels {raw['knn']:.3f}, {raw['probe']:.3f}",
                f"{means['ours']['knn'] - means['lightly']['knn']:+.3f}, {means['ours']['probe'] - means['lightly']['probe']:+.3f} in {means['ours']['seconds'] / means['lightly']['seconds']:.2f} of the CPU time",
            )
        )
        curves[data.name] = (runs, settings["every"])
    picture = Path(__file__).parent / "learning_cpu_2026-11.png"
    draw(curves, picture)
    write(
        "learning_cpu",
        claim="What minutes on a CPU teach an encoder without labels, against lightly's SimCLR at the same images seen",
        data="CIFAR-10, a recompressed copy of 50,000 + 10,000 images; 40 classes of Caltech-101, 1,403 + 597 photos",
        packages=PACKAGES,
        body="\n\n".join(parts)
        + f"\n\nMean (each of 3 seeds; medians of time and memory). The same encoder from timm, one torch thread, no workers; time is what the processor "
        f"computed for the process, memory includes the interpreter and the images. Ours: `--recipe {RECIPE}`. lightly: SimCLRTransform and settings of its "
        "CIFAR-10 benchmark (SGD 0.06 x B/128, momentum 0.9, weight decay 5e-4, cosine, temperature 0.5), plain two forwards. All training images "
        "vote on all test images, weighted exp(cosine / 0.07); the probe is logistic regression, its strength chosen on a fifth of the training images "
        f"(on raw CIFAR-10 pixels it learns from every tenth).\n\n![kNN accuracy over images seen]({picture.name})\n\nThe curves' accuracies on CIFAR-10 are of a fifth of the bank.",
        rows=rows_of_table,
        figures=numbers,
    )


def mean_and_each(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def draw(curves: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (title, (runs, every)) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
        for who, colour in (("ours", "tab:blue"), ("lightly", "tab:orange")):
            for number, one in enumerate(runs[who]):
                points = [(p["images"] / 1000, p["knn"]) for p in one["curve"]]
                axes.plot(
                    *zip(*points, strict=True),
                    "o-",
                    color=colour,
                    alpha=0.8,
                    label=None if number else who,
                )
        bank = "" if every == 1 else ", a fifth of the bank"
        axes.set(title=title, xlabel="thousand images seen", ylabel=f"kNN accuracy{bank}")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", choices=("run", "report"))
    parser.add_argument("who", nargs="?", choices=("OURS", "LIGHTLY"))
    parser.add_argument("set", nargs="?", choices=sorted(SETTINGS))
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--caltech", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.word == "report":
        return report(args)
    result = args.out / f"{args.set}-{args.who.lower()}-{args.seed}.json"
    if result.exists():
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # for both; torch looks once, at its first allocation
    import torch

    torch.set_num_threads(args.threads)
    contender = {"OURS": ours, "LIGHTLY": lightly}[args.who]
    found = contender(open_set(args.set, args.data), SETTINGS[args.set], args)
    result.write_text(json.dumps(found))
    print(json.dumps({key: value for key, value in found.items() if key != "curve"}))


if __name__ == "__main__":
    main()

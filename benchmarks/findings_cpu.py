"""Claim: two findings of the SimCLR paper hold at a size that two cores can do: crops and colours together teach more than
either alone (section 3.1, figure 5), and more negatives help a short run (section 5.2, figure 9).

    findings_cpu.py run ARM SEED --cifar cifar10.npz --out DIR     one run, about three minutes; what exists is kept
    findings_cpu.py report --cifar cifar10.npz --out DIR           the report and its numbers

Arms: crop, colour, both (batch 256); batch-64, batch-1024 (crop and colour). Everything else is equal, images seen included.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labelled_sets import LabelledSet, open_set
from learned import NEIGHBOURS, centred_pixels, knn_accuracy, measured, probe_accuracy
from reporting import Row, write

SEEDS = (0, 1, 2)
ENCODER, EPOCHS = "test_resnet", 2
EVERY = 5
"""The probe learns from a fifth of the training images."""
ARMS: dict[str, list[str]] = {
    "crop": ["augmentation.jitter=0", "augmentation.grayscale=0"],
    "colour": ["augmentation.crop_min=1", "augmentation.crop_ratio=1"],
    "both": [],
    "batch-64": ["batch_size=64"],
    "batch-1024": ["batch_size=1024"],
}


def run_arm(data: LabelledSet, args: argparse.Namespace) -> dict[str, Any]:
    from simclr.encoder import load_encoder
    from simclr.pretrain import PretrainConfig, run
    from simclr.pretrain.config import with_settings
    from simclr.pretrain.recipe import load_recipe

    images = data.write(args.out)
    config = with_settings(
        load_recipe("small-images").apply(PretrainConfig(data=str(images))),
        [
            f'encoder="{ENCODER}"', 'loss="nt_xent"', "batch_size=256", f"epochs={EPOCHS}", f"seed={args.seed}",
            "threads=1", "workers=0", "small_stem=false", *ARMS[args.arm],
        ],
    )  # fmt: skip
    encoder, info = load_encoder(run(config, out=args.out / f"{args.arm}-{args.seed}"))
    return measured(encoder, data, info.recipe.mean, info.recipe.std, every=EVERY)


def report(args: argparse.Namespace) -> None:
    data = open_set("cifar", args.cifar)
    bank, queries = (centred_pixels(data.pixels[split]) for split in ("train", "test"))
    raw = {
        "knn": knn_accuracy(bank, queries, data),
        "probe": probe_accuracy(bank[::EVERY], queries, data, every=EVERY),
    }
    found = {
        arm: [json.loads((args.out / f"{arm}-{seed}.json").read_text()) for seed in SEEDS] for arm in ARMS
    }

    def row(title: str, arm: str) -> str:
        cells = []
        for key in ("knn", "probe"):
            values = [one[key] for one in found[arm]]
            cells.append(f"{statistics.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
        return f"| {title} | {' | '.join(cells)} |"

    head = f"|---|---|---|\n| raw pixels, around mid-grey | {raw['knn']:.3f} | {raw['probe']:.3f} |"
    columns = f"kNN, {NEIGHBOURS} neighbours | linear probe |"
    body = (
        f"## Crops and colours\n\n| views differ in | {columns}\n{head}\n"
        + "\n".join(
            row(title, arm)
            for title, arm in (
                ("crop alone", "crop"),
                ("colour alone", "colour"),
                ("crop and colour", "both"),
            )
        )
        + f"\n\n## Negatives\n\n| batch, negatives of a view | {columns}\n{head}\n"
        + "\n".join(
            row(f"{batch}, {2 * batch - 2:,}", arm)
            for batch, arm in ((64, "batch-64"), (256, "both"), (1024, "batch-1024"))
        )
        + f"\n\nMean (each of 3 seeds). timm's {ENCODER}, NT-Xent at temperature 0.2, LARS with a rate of 2.0 x B / 256 as the paper scales it, "
        f"{EPOCHS * len(data.pixels['train']):,} images seen, everything else of `--recipe small-images`: half of the views are mirrored in every arm, none is blurred. "
        "The paper: ResNet-50, ImageNet, linear probe."
    )

    def best(arms: Iterable[str]) -> str:
        return ", ".join(f"{statistics.mean(one['probe'] for one in found[arm]):.3f}" for arm in arms)

    write(
        "findings_cpu",
        claim="Two findings of the SimCLR paper, at a size that two cores can do",
        data="CIFAR-10, a recompressed copy of 50,000 + 10,000 images",
        packages=["torch", "timm"],
        body=body,
        figures={"raw pixels": raw, **found},
        rows=[
            Row(
                f"CIFAR-10 (recompressed), {ENCODER}, {EPOCHS * len(data.pixels['train']):,} images seen, linear probe, 3 seeds: crops and colours",
                best(["both"]),
                f"crop alone, colour alone: {best(['crop', 'colour'])}",
            ),
            Row(
                "the same with batches of 1,024, 256, 64: more negatives, fewer steps",
                best(["batch-1024"]),
                best(["both", "batch-64"]),
            ),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("word", choices=("run", "report"))
    parser.add_argument("arm", nargs="?", choices=sorted(ARMS))
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.word == "report":
        return report(args)
    result = args.out / f"{args.arm}-{args.seed}.json"
    if result.exists():
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    result.write_text(json.dumps(run_arm(open_set("cifar", args.cifar), args)))


if __name__ == "__main__":
    main()

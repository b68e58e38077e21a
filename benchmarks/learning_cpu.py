"""Claim: after as many images our recipe's features answer kNN clearly better than raw pixels, and no worse than lightly's SimCLR.

    python benchmarks/learning_cpu.py run ours|lightly|pixels SEED --cifar cifar10.npz --out DIR [--set KEY=VALUE ...]
    python benchmarks/learning_cpu.py report --out DIR

`run` does one run and writes DIR/NAME-SEED.json; what exists is skipped, what was stopped goes on. `report` joins them. All
contenders see the same files, encoder, batch and number of steps, and one function measures them. cifar10.npz holds JPEG files
end to end (jpeg_train, jpeg_test, uint8), where each begins and the last ends (offsets_train, offsets_test), and y_train, y_test.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightly.transforms.utils import IMAGENET_NORMALIZE
from numpy.typing import NDArray
from PIL import Image
from reporting import write
from torch import Tensor, nn

from simclr.artifacts import write_atomically
from simclr.classify.knn import knn_predict
from simclr.cpus import available_cpus
from simclr.encoder import build_encoder, default_recipe, feature_width, wants_small_stem
from simclr.pretrain import Augmentation, PretrainConfig, run
from simclr.pretrain.checkpoint import load_checkpoint
from simclr.pretrain.config import to_toml, with_settings
from simclr.pretrain.data import images_at
from simclr.pretrain.features import evaluating
from simclr.pretrain.labels import Labelled, read_labelled
from simclr.pretrain.recipe import load_recipe
from simclr.pretrain.schedule import learning_rate, total_steps
from simclr.sources import list_images

SIZE, POINTS, POINT_BANK, LOSS_EVERY = 32, 6, 10_000, 20
"""Pixels; accuracies along a run, and how many images vote then; steps a point of the loss curve is the mean of."""
NEIGHBOURS = (5, 20)
LIGHTLY = {"lr": 6e-2, "momentum": 0.9, "weight_decay": 5e-4}
"""SGD of lightly's own CIFAR-10 benchmark, the rate for 128 images."""


def unpack(cifar: Path, out: Path, images: int | None) -> Path:
    """Once: DIR/images/{train,test}/CLASS/NNNNN.jpg. Of `images` for a trial, a fifth of them to test."""
    folder = out / (f"images-{images}" if images else "images")
    if (folder / "whole").exists():
        return folder
    packed = np.load(cifar)
    names = packed["classes"].tolist() if "classes" in packed else [str(i) for i in range(10)]
    for split, most in (("train", images), ("test", images and max(100, images // 5))):
        data, ends, labels = packed[f"jpeg_{split}"], packed[f"offsets_{split}"], packed[f"y_{split}"]
        for name in names:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for i, label in enumerate(labels[:most]):
            path = folder / split / names[label] / f"{i:05d}.jpg"
            path.write_bytes(data[ends[i] : ends[i + 1]].tobytes())
    (folder / "whole").touch()
    return folder


def decoded(images: Labelled) -> NDArray[np.uint8]:
    """(N, 32, 32, 3)."""
    return np.stack([np.asarray(Image.open(images.root / path).convert("RGB")) for path in images.paths])


@dataclass(frozen=True)
class Judge:
    """Bank and queries, the same for all contenders."""

    bank: NDArray[np.uint8]
    bank_labels: NDArray[np.int64]
    queries: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, folder: Path) -> "Judge":
        train, test = read_labelled(folder)
        assert test is not None
        return cls(decoded(train), train.labels, decoded(test), test.labels)

    def few(self) -> "Judge":
        """With POINT_BANK images that vote, drawn once for all."""
        rows = np.random.default_rng(0).permutation(len(self.bank))[:POINT_BANK]
        return Judge(self.bank[rows], self.bank_labels[rows], self.queries, self.labels)

    def accuracy(self, features: Callable[[NDArray[np.uint8]], NDArray[np.float32]]) -> dict[str, float]:
        """Share of right answers by number of neighbours, as text (JSON has no other keys)."""
        bank, queries = features(self.bank), features(self.queries)
        return {
            str(k): float((knn_predict(bank, self.bank_labels, queries, k=k) == self.labels).mean())
            for k in NEIGHBOURS
        }


def pixel_features(grey: float) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Rows of all values of an image in 0..1 less `grey`, of unit length."""

    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = pixels.reshape(len(pixels), -1).astype(np.float32) / 255 - np.float32(grey)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
        return rows

    return features


def encoder_features(
    encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Pooled features in eval mode, of unit length; colours as in that contender's training."""
    m, s = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))

    @torch.no_grad()
    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = []
        with evaluating(encoder):
            for start in range(0, len(pixels), 500):
                views = torch.from_numpy(pixels[start : start + 500]).permute(0, 3, 1, 2).float() / 255
                rows.append(nn.functional.normalize(encoder((views - m) / s), dim=1))
        return torch.cat(rows).numpy()

    return features


# ---- the contenders: each gives seconds of training, loss curve, accuracies along the run and at its end


def ours(options: argparse.Namespace, folder: Path, judge: Judge) -> dict[str, Any]:
    """`simclr.pretrain.run`; its checkpoints are measured afterwards."""
    steps = options.steps
    base = PretrainConfig(data="", augmentation=Augmentation(strength=0.5, blur=0.0))
    if options.recipe:
        base = load_recipe(options.recipe).apply(base)
    every = math.ceil(steps / POINTS)
    common = [
        f"data={json.dumps(str(folder / 'train'))}", f"encoder={options.encoder}", f"image_size={SIZE}", "device=cpu",
        f"batch_size={options.batch}", f"epochs={options.epochs}", f"seed={options.seed}", f"threads={options.threads}",
        f"workers={options.workers}", f"checkpoint_every={every}", "checkpoint_keep=1", f"checkpoint_keep_every={every}",
    ]  # fmt: skip
    config = with_settings(base, [*options.set, *common])
    work = options.out / f"{options.name}-{options.seed}"
    resume = (work / "config.toml").exists()
    run(config, out=work, resume=resume, progress=_say, note=lambda line: print(line, file=sys.stderr))

    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    small = config.small_stem
    encoder = build_encoder(
        config.encoder, small_stem=wants_small_stem(config.encoder, SIZE) if small is None else small
    ).to(memory_format=torch.channels_last)
    recipe = default_recipe(config.encoder, image_size=SIZE)
    features = encoder_features(encoder, recipe.mean, recipe.std)
    points, few, path = [], judge.few(), None
    for path in sorted((work / "checkpoints").glob("step-*.pt")):
        state = load_checkpoint(path)
        encoder.load_state_dict(
            {k.removeprefix("encoder."): v for k, v in state.model.items() if k.startswith("encoder.")}
        )
        points.append([state.step, few.accuracy(features)])
    assert points[-1][0] == steps, f"{path}: not the end of the run"
    return {
        "settings": to_toml(config),
        "seconds": sum(line["seconds"] for line in lines),
        "losses": thinned([line["loss"] for line in lines]),
        "points": points,
        "final": judge.accuracy(features),
    }


class TwoViews(torch.utils.data.Dataset[list[Tensor]]):
    """PIL images in memory through lightly's transform."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.images = [Image.fromarray(image) for image in pixels]
        self.transform = SimCLRTransform(input_size=SIZE, cj_strength=0.5, gaussian_blur=0.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> list[Tensor]:
        views: list[Tensor] = self.transform(self.images[i])
        return views


class Peer(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.encoder = build_encoder(name, small_stem=wants_small_stem(name, SIZE))
        width = feature_width(self.encoder, SIZE)
        self.head = SimCLRProjectionHead(width, width, 128)

    def forward(self, views: Tensor) -> Tensor:
        projections: Tensor = self.head(self.encoder(views))
        return projections


def lightly(options: argparse.Namespace, folder: Path, judge: Judge) -> dict[str, Any]:
    """lightly's parts and the settings of its CIFAR-10 benchmark, in the loop of its SimCLR example."""
    steps, batch = options.steps, options.batch
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    model, criterion = Peer(options.encoder).train(), NTXentLoss()
    peak = LIGHTLY["lr"] * batch / 128
    optimizer = torch.optim.SGD(
        model.parameters(), lr=peak, momentum=LIGHTLY["momentum"], weight_decay=LIGHTLY["weight_decay"]
    )
    # in the order of the folder's listing, which is that of the judge's bank, too
    assert len(list_images(folder / "train")) == len(judge.bank)
    dataset = TwoViews(judge.bank)
    features = encoder_features(
        model.encoder, tuple(IMAGENET_NORMALIZE["mean"]), tuple(IMAGENET_NORMALIZE["std"])
    )
    every, few = math.ceil(steps / POINTS), judge.few()
    path = options.out / f"{options.name}-{options.seed}.pt"
    seconds, losses, points = 0.0, [], []  # type: ignore[var-annotated]
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        seconds, losses, points = saved["seconds"], saved["losses"], saved["points"]
    while len(losses) < steps:
        start, stop = len(losses), min(steps, len(losses) + every)
        order = images_at(range(start * batch, stop * batch), seed=options.seed, images=len(dataset))
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=batch, sampler=order.tolist(), num_workers=options.workers,
            generator=torch.Generator().manual_seed(1_000_003 * options.seed + start),
        )  # fmt: skip
        began = time.perf_counter()
        for step, (view0, view1) in enumerate(loader, start):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, peak=peak, warmup_steps=0, total_steps=steps)
            loss = criterion(model(view0), model(view1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if step % LOSS_EVERY == 0:
                _say(step * batch, steps * batch, f"loss {losses[-1]:.3f}")
        seconds += time.perf_counter() - began
        points.append([stop, few.accuracy(features)])
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "seconds": seconds, "losses": losses, "points": points,
        }  # fmt: skip
        write_atomically(path, lambda temporary, state=state: torch.save(state, temporary))  # type: ignore[misc]
    return {
        "settings": f"SGD lr {peak:g}, momentum {LIGHTLY['momentum']}, weight decay {LIGHTLY['weight_decay']}, cosine; T 0.5",
        "seconds": seconds,
        "losses": thinned(losses),
        "points": points,
        "final": judge.accuracy(features),
    }


def pixels(options: argparse.Namespace, folder: Path, judge: Judge) -> dict[str, Any]:
    """No training: what the images themselves know, with black and with mid-grey as the origin."""
    return {
        "settings": "unit rows",
        "final": judge.accuracy(pixel_features(0.5)),
        "final_from_black": judge.accuracy(pixel_features(0.0)),
    }


def thinned(losses: list[float]) -> list[list[float]]:
    """(last step, mean) of every LOSS_EVERY steps."""
    return [
        [min(len(losses), start + LOSS_EVERY), mean(losses[start : start + LOSS_EVERY])]
        for start in range(0, len(losses), LOSS_EVERY)
    ]


def _say(done: int, total: int, words: str) -> None:
    if sys.stderr.isatty() or done * 50 // total != getattr(_say, "last", None):
        _say.last = done * 50 // total  # type: ignore[attr-defined]
        print(f"{done:,} of {total:,}: {words}", file=sys.stderr)


def one_run(options: argparse.Namespace) -> None:
    options.name = options.name or options.who
    target = options.out / f"{options.name}-{options.seed}.json"
    asked = {
        "who": options.who, "name": options.name, "seed": options.seed, "encoder": options.encoder, "epochs": options.epochs,
        "batch": options.batch, "images": options.images, "recipe": options.recipe, "set": options.set,
    }  # fmt: skip
    if target.exists():
        before = json.loads(target.read_text())["asked"]
        if before != asked:
            raise SystemExit(f"{target}: was made with other settings. Use another --name or --out.")
        print(f"{target} exists")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    folder = unpack(options.cifar, options.out, options.images)
    # our run decides about huge pages before torch's first allocation; the peer does not have them
    if options.who == "ours":
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    judge = Judge.of(folder)
    options.steps = total_steps(len(judge.bank), batch_size=options.batch, epochs=options.epochs)
    result = {"ours": ours, "lightly": lightly, "pixels": pixels}[options.who](options, folder, judge)
    content = {"asked": asked, "steps": options.steps, "threads": options.threads} | {
        "bank": len(judge.bank), "queries": len(judge.queries)
    } | result  # fmt: skip
    write_atomically(target, lambda temporary: temporary.write_text(json.dumps(content, indent=1)))
    print(f"{target}: {content['final']}")


# ---- the report


def report(options: argparse.Namespace) -> None:
    runs = [json.loads(path.read_text()) for path in sorted(options.out.glob("*-[0-9]*.json"))]
    if not runs:
        raise SystemExit(f"{options.out}: no run in it. Begin with `run`.")
    common = {(r["asked"]["images"], r["bank"], r["queries"]) for r in runs}
    trained = {
        (r["asked"]["encoder"], r["asked"]["batch"], r["steps"])
        for r in runs
        if r["asked"]["who"] != "pixels"
    }
    if len(common) > 1 or len(trained) > 1:
        raise SystemExit(
            f"{options.out}: its runs differ in images, encoder, batch or steps ({common}, {trained})."
        )
    by_name: dict[str, list[dict[str, Any]]] = {}
    for found in runs:
        by_name.setdefault(found["asked"]["name"], []).append(found)

    rows = []
    for name, group in by_name.items():
        cells = [_spread([r["final"][str(k)] for r in group]) for k in NEIGHBOURS]
        seconds = _spread([r["seconds"] for r in group], "{:.0f}") if "seconds" in group[0] else "0"
        rows.append(f"| {name} | {len(group)} | {' | '.join(cells)} | {seconds} |")
        if "final_from_black" in group[0]:
            cells = [f"{group[0]['final_from_black'][str(k)]:.4f}" for k in NEIGHBOURS]
            rows.append(f"| {name}, not centred | 1 | {' | '.join(cells)} | 0 |")
    settings = "\n\n".join(
        f"{name}:\n\n```\n{_without_paths(group[0]['settings']).strip()}\n```"
        for name, group in by_name.items()
        if "seconds" in group[0]
    )
    encoder, batch, steps = next(iter(trained), ("", 0, 0))
    path = write(
        "learning_cpu",
        claim="What pretraining teaches a small encoder of CIFAR-10 on the CPU, by kNN",
        data=f"CIFAR-10: {runs[0]['bank']:,} training images, the bank, too; {runs[0]['queries']:,} test images asked about",
        packages=["torch", "timm", "lightly"],
        body=(
            f"{encoder} at {SIZE} px, batch {batch}, {steps} steps ({steps * batch:,} images seen).\n\n"
            "| | seeds | kNN, 5 neighbours | 20 neighbours | seconds of training |\n|---|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n\n![Accuracy and loss over the run](learning_cpu.svg)\n\n"
            "Mean (range) over seeds. The vote is weighted exp(similarity / 0.07). The curves' points are votes of "
            f"{min(POINT_BANK, runs[0]['bank']):,} images, the table's of all. Raw pixels: rows of unit length, centred around "
            "mid-grey or not. Losses of different temperatures cannot be compared with one another. Both contenders take the "
            "images in the same order; lightly's rate falls by a cosine step by step, where its benchmark does so by epochs. "
            "The files are the same; each normalises colours as in its own training.\n\n" + settings
        ),
    )
    _draw(by_name, path.with_name("learning_cpu.svg"))


def _draw(by_name: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Accuracy and loss, each seed a thin line."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "learning_cpu"  # the same file for the same numbers
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    colours: Iterator[str] = iter(f"C{i}" for i in range(10))
    for name, group in by_name.items():
        if "points" not in group[0]:
            left.axhline(group[0]["final"]["5"], color="grey", linestyle="--", label=f"{name} (whole bank)")
            continue
        colour = next(colours)
        for number, found in enumerate(group):
            label = name if number == 0 else None
            steps, accuracy = zip(*((step, by["5"]) for step, by in found["points"]), strict=True)
            left.plot(steps, accuracy, marker=".", color=colour, linewidth=1, label=label)
            right.plot(*zip(*found["losses"], strict=True), color=colour, linewidth=1, label=label)
    left.set(xlabel="step", ylabel="kNN accuracy, 5 neighbours")
    right.set(xlabel="step", ylabel="training loss")
    left.legend()
    figure.savefig(path, metadata={"Date": None})


def _spread(values: list[float], form: str = "{:.4f}") -> str:
    middle, low, high = (form.format(x) for x in (mean(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def _without_paths(settings: str) -> str:
    return re.sub(r'^data = ".*"\n', "", settings, flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("run", help="one run")
    verb.add_argument("who", choices=["ours", "lightly", "pixels"], type=str.lower)
    verb.add_argument("seed", type=int)
    verb.add_argument("--cifar", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--epochs", type=int, default=6)
    verb.add_argument("--batch", type=int, default=256)
    verb.add_argument("--encoder", default="test_resnet", help="timm name")
    verb.add_argument("--images", type=int, help="only the first so many, for a trial")
    verb.add_argument("--threads", type=int, default=available_cpus())
    verb.add_argument("--workers", type=int, default=2, help="processes that decode or make views")
    verb.add_argument("--recipe", help="ours: settings to begin with")
    verb.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="ours")
    verb.add_argument("--name", help="in the report; by default who runs")
    verb.set_defaults(work=one_run)
    verb = verbs.add_parser("report", help="the table and curves of all runs in --out")
    verb.add_argument("--out", type=Path, required=True)
    verb.set_defaults(work=report)
    options = parser.parse_args()
    options.work(options)


if __name__ == "__main__":
    main()

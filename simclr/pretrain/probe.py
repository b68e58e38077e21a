"""The paper's evaluation: a linear classifier on a frozen encoder, or the whole network fine-tuned; top-1 and top-5.

Takes a folder with encoder.safetensors and encoder.json, and labelled images; writes FOLDER/probe/*.json and changes nothing
else. Chen et al. 2020 (arXiv:2002.05709), appendices B.5 (fine-tuning) and B.6 (linear). Reads top to bottom.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from simclr.artifacts import Artifact
from simclr.cpus import available_cpus
from simclr.encoder import INFO_FILE, load_encoder
from simclr.errors import ArtifactError, ConfigError, SimclrError
from simclr.pretrain.classifier import fine_tune, score, train_linear, zero_head
from simclr.pretrain.config import PretrainConfig
from simclr.pretrain.crops import LabelledCrops, crop_batches
from simclr.pretrain.device import device_and_dtype
from simclr.pretrain.features import EvaluationPixels
from simclr.pretrain.in_workers import default_workers
from simclr.pretrain.labels import Labelled, hold_out, read_labelled, share_of_labels
from simclr.pretrain.memory import is_out_of_memory
from simclr.pretrain.schedule import peak_learning_rate, total_steps

PROBE_FOLDER = "probe"
DEFAULT_BATCH_SIZE = 4096
LINEAR_LR, FINE_TUNE_LR = 0.1, 0.05
"""Per 256 images (B.6: 1.6 at 4096; B.5: 0.8)."""
LINEAR_EPOCHS = 90


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Everything that decides a probe, besides the encoder."""

    data: Path
    """Folder of labelled images (see labels.py)."""
    fine_tune: bool = False
    """Train all weights, from the encoder's; else a linear classifier on the frozen encoder."""
    labels: int = 100
    """Percent of the training images that are used, of each class alike: 1, 10 or 100."""
    epochs: int | None = None
    """Unset: 90 linear; 60 of fine-tuning on 1 % of the labels, 30 on more."""
    batch_size: int | None = None
    """Unset: 4096, or all training images where they are fewer."""
    seed: int = 0
    """Decides the share of labels, what is held out, order and crops."""
    device: str = "auto"
    workers: int | None = None
    """Processes that decode and crop. Unset: one a core, at most 16."""

    def __post_init__(self) -> None:
        if self.labels not in (1, 10, 100):
            raise ConfigError(f"--labels {self.labels}: give 1, 10 or 100 percent.")
        for name in ("epochs", "batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1.")
        if self.seed < 0 or (self.workers or 0) < 0:
            raise ConfigError("--seed and --workers must be at least 0.")

    @property
    def resolved_epochs(self) -> int:
        if self.epochs is not None:
            return self.epochs
        return LINEAR_EPOCHS if not self.fine_tune else 60 if self.labels == 1 else 30

    @property
    def name(self) -> str:
        return f"{'fine-tune' if self.fine_tune else 'linear'}-{self.labels}"


@dataclass(frozen=True, kw_only=True)
class ProbeResult(Artifact):
    """What a probe measured, and all that decided it."""

    KIND = "probe"

    top1: float
    """Share of the test images whose class is the most likely one."""
    top5: float | None
    """The same for the five most likely; None where there are no more than five classes."""
    test_images: int
    """That could be read."""
    train_images: int
    classes: int
    labels: int
    """Percent."""
    fine_tune: bool
    held_out: bool
    """The test images are a fifth of the training set's, as it has no test split."""
    epochs: int
    batch_size: int
    peak_lr: float
    seed: int
    data: str
    """Name of the folder."""
    data_sha256: str
    """Of the listing of training and test images with their classes."""
    encoder: str
    """Its identity."""
    weights_sha256: str
    parents: dict[str, Any] = field(default_factory=dict)
    """The encoder's."""

    @property
    def words(self) -> str:
        top5 = f"  top-5 {100 * self.top5:.1f} %" if self.top5 is not None else ""
        return (
            f"top-1 {100 * self.top1:.1f} %{top5}  ({self.test_images:,} {'held-out' if self.held_out else 'test'} images, "
            f"{self.classes:,} classes, {self.labels} % of labels, {'fine-tuned' if self.fine_tune else 'frozen'} encoder)"
        )


def probe(
    run: Path,
    config: ProbeConfig,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, words: None,
    note: Callable[[str], None] = lambda line: None,
) -> ProbeResult:
    """Measure the encoder in `run`; also writes `run`/probe/NAME.json. The same twice on a CPU.

    Raises ConfigError (settings, labels), ImageError (images), ArtifactError (no encoder), SimclrError (a frozen encoder that was
    trained all the same; no memory).
    """
    # ---- encoder, images, settings
    device, dtype = device_and_dtype(PretrainConfig(data="", device=config.device))
    torch.set_num_threads(available_cpus())
    if not (run / INFO_FILE).is_file():
        raise ArtifactError(f"{run}: no {INFO_FILE} in it. Give a run folder of `simclr pretrain`.")
    encoder, info = load_encoder(run)
    train, test = read_labelled(config.data)
    if held_out := test is None:
        train, test = hold_out(train, seed=config.seed)
        note(f"{config.data}: no test split, so a fifth of each class is held out: {len(test):,} images")
    assert test is not None
    listing = _listing_sha256(train, test)
    train = share_of_labels(train, config.labels, seed=config.seed)
    batch_size = config.batch_size or min(DEFAULT_BATCH_SIZE, len(train))
    if batch_size > len(train):
        raise ConfigError(
            f"--batch-size {batch_size}: more than the {len(train)} training images. Give at most {len(train)}."
        )
    base = FINE_TUNE_LR if config.fine_tune else LINEAR_LR
    peak = peak_learning_rate(base, batch_size=batch_size, scaling="linear")
    steps = total_steps(len(train), batch_size=batch_size, epochs=config.resolved_epochs)
    workers = default_workers() if config.workers is None else config.workers
    (run / PROBE_FOLDER).mkdir(exist_ok=True)  # what cannot be written is known before the work

    # ---- training
    encoder.to(device).to(memory_format=torch.channels_last)
    skipped: dict[str, str] = {}

    def told(step: int, batch: LabelledCrops, loss: float) -> None:
        for path, why in batch.unreadable:
            if path not in skipped:
                note(f"skipped {path}: {why}")
            skipped[path] = why
        progress((step + 1) * batch_size, steps * batch_size, f"loss {loss:.3f}")

    batches = crop_batches(
        train,
        steps=steps,
        batch_size=batch_size,
        size=info.recipe.size,
        seed=config.seed,
        workers=workers,
    )
    torch.manual_seed(config.seed)  # for encoders with dropout
    head = zero_head(info.width, len(train.classes)).to(device)
    training = fine_tune if config.fine_tune else train_linear
    try:
        training(encoder, head, batches, recipe=info.recipe, peak=peak, steps=steps, dtype=dtype, told=told)
    except RuntimeError as exc:
        if not is_out_of_memory(exc):
            raise
        raise SimclrError(f"{device}: out of memory. Use a GPU with more, or --device cpu.") from exc
    finally:
        batches.close()

    # ---- test
    pixels = EvaluationPixels(test, info.recipe, workers=workers)
    top1, top5, count = score(encoder, head, pixels, device=device, dtype=dtype)
    for path, why in pixels.unreadable.items():
        note(f"skipped {path}: {why}")
    result = ProbeResult(
        top1=top1,
        top5=top5,
        test_images=count,
        train_images=len(train) - len(skipped),
        classes=len(train.classes),
        labels=config.labels,
        fine_tune=config.fine_tune,
        held_out=held_out,
        epochs=config.resolved_epochs,
        batch_size=batch_size,
        peak_lr=peak,
        seed=config.seed,
        data=config.data.resolve().name,
        data_sha256=listing,
        encoder=info.identity,
        weights_sha256=info.weights_sha256,
        parents=info.parents,
    )
    result.save(run / PROBE_FOLDER / f"{config.name}.json")
    return result


def _listing_sha256(train: Labelled, test: Labelled) -> str:
    lines = [f"{path}\t{images.classes[label]}" for images in (train, test)
             for path, label in zip(images.paths.tolist(), images.labels.tolist(), strict=True)]  # fmt: skip
    lines.insert(len(train), "")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()

"""A classifier on an encoder: train it, on the frozen encoder or together with it, and count what it gets right.

Takes batches of labelled crops; gives numbers. Chen et al. 2020 (arXiv:2002.05709), appendices B.5 (fine-tuning) and B.6 (linear):
cross-entropy, SGD with Nesterov momentum, no weight decay. Knows no files.

Shape letters: N = images, H, W, C = pixels and channels, or C = classes; F = encoder width.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr.encoder import weights_sha256
from simclr.errors import SimclrError
from simclr.preprocess import Recipe
from simclr.pretrain.crops import LabelledCrops, flipped
from simclr.pretrain.features import EvaluationPixels, encode, evaluating, to_views
from simclr.pretrain.schedule import learning_rate

MOMENTUM = 0.9
"""Nesterov's. No weight decay in either; the reference's README has 1e-6 for the linear classifier."""
_PIECE = 128
"""Images that go through the encoder at a time. Fine-tuning takes batch statistics over each such piece, as the reference does over
the images of one core; the gradient is that of the whole batch."""
_TOP5_ABOVE = 5
"""Classes above which the top 5 say something."""

Told = Callable[[int, LabelledCrops, float], None]
"""Called after each step with its number, its batch and its mean loss."""


def zero_head(width: int, classes: int) -> nn.Linear:
    """A linear classifier whose logits start at zero (google-research/simclr, `zero_init_logits_layer`)."""
    head = nn.Linear(width, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def train_linear(
    encoder: nn.Module,
    head: nn.Linear,
    batches: Iterable[LabelledCrops],
    *,
    recipe: Recipe,
    peak: float,
    steps: int,
    dtype: torch.dtype = torch.float32,
    told: Told = lambda step, batch, loss: None,
) -> None:
    """Train `head` on the features of an encoder that stays as it is, to the last bit.

    Raises SimclrError if any of the encoder's weights or buffers is another afterwards: the accuracy would say nothing about the
    encoder that is given.
    """
    before = weights_sha256(encoder.state_dict())
    encoder.requires_grad_(False)
    with evaluating(encoder):
        _train(
            head.parameters(),
            lambda views: head(encode(encoder, views, dtype=dtype)),
            batches, recipe=recipe, peak=peak, steps=steps, told=told,
        )  # fmt: skip
    if weights_sha256(encoder.state_dict()) != before:
        raise SimclrError(
            "the frozen encoder was changed while the linear classifier was trained (weights or running statistics), "
            "so there is no result. An encoder that changes in eval mode cannot be probed: use --fine-tune."
        )


def fine_tune(
    encoder: nn.Module,
    head: nn.Linear,
    batches: Iterable[LabelledCrops],
    *,
    recipe: Recipe,
    peak: float,
    steps: int,
    dtype: torch.dtype = torch.float32,
    told: Told = lambda step, batch, loss: None,
) -> None:
    """Train `head` and all weights of `encoder`, which ends in eval mode."""

    def logits(views_NCHW: Tensor) -> Tensor:
        with torch.autocast(views_NCHW.device.type, dtype, enabled=dtype != torch.float32):
            features = encoder(views_NCHW)
        out: Tensor = head(features.float())
        return out

    encoder.requires_grad_(True).train()
    _train(
        [*encoder.parameters(), *head.parameters()],
        logits,
        batches,
        recipe=recipe,
        peak=peak,
        steps=steps,
        told=told,
    )
    encoder.eval()


def _train(
    weights: Iterable[nn.Parameter],
    logits: Callable[[Tensor], Tensor],
    batches: Iterable[LabelledCrops],
    *,
    recipe: Recipe,
    peak: float,
    steps: int,
    told: Told,
) -> None:
    """Cross-entropy, SGD with Nesterov momentum, learning rate from `peak` to 0 along a cosine."""
    optimizer = torch.optim.SGD(weights, lr=peak, momentum=MOMENTUM, nesterov=True)
    device = optimizer.param_groups[0]["params"][0].device
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=peak, warmup_steps=0, total_steps=steps)
        count, loss = len(batch.labels_N), torch.zeros((), device=device)
        for rows in torch.arange(count).tensor_split(-(-count // _PIECE)):
            views_NCHW = to_views(flipped(batch, rows, device), recipe)
            labels_N = batch.labels_N[rows].to(device)
            part = F.cross_entropy(logits(views_NCHW), labels_N, reduction="sum") / count
            part.backward()
            loss += part.detach()
        if not torch.isfinite(loss):
            raise SimclrError(
                f"the classifier's loss is no number at step {step} of {steps}: its learning rate of {peak:.3g} is too high for this "
                "encoder. It grows with the batch: use a smaller --batch-size."
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told(step, batch, loss.item())


def score(
    encoder: nn.Module,
    head: nn.Linear,
    pixels: EvaluationPixels,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, float | None, int]:
    """Top-1, top-5 (None for up to five classes) and the number of images that could be read."""
    ranks = []
    with torch.no_grad(), evaluating(encoder):
        for block_NHWC, labels_N in pixels.blocks():
            logits_NC = head(
                encode(encoder, to_views(block_NHWC.to(device), pixels.recipe), dtype=dtype)
            ).cpu()
            ranks.append(rank_of(logits_NC, labels_N))
    rank_N = torch.cat(ranks)
    top5 = (rank_N < 5).float().mean().item() if head.out_features > _TOP5_ABOVE else None
    return (rank_N < 1).float().mean().item(), top5, len(rank_N)


def rank_of(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """(N,): how many classes come before the right one; of equal logits the lower class does. One that is no number is last."""
    own_N1 = logits_NC.gather(1, labels_N[:, None])
    earlier = torch.arange(logits_NC.shape[1]) < labels_N[:, None]
    before = ~(logits_NC <= own_N1) | ((logits_NC == own_N1) & earlier)
    return (before & (torch.arange(logits_NC.shape[1]) != labels_N[:, None])).sum(1)

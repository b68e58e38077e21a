"""Which optimiser, and what it does to which tensors. LARS itself is in lars.py."""

from typing import Any, Literal

import torch

from simclr.pretrain.lars import LARS, lars_groups
from simclr.pretrain.model import SimCLR

_CLASSIFIER_LR = 0.1
"""Of the online linear classifier, per 256 images: that of the paper's linear evaluation (appendix B.6)."""


def build_optimizer(
    model: SimCLR,
    kind: Literal["lars", "sgd", "adamw"],
    *,
    momentum: float,
    weight_decay: float,
    peak: float,
    batch_size: int,
) -> torch.optim.Optimizer:
    """An optimiser over the trained parameters, its learning rate yet to be set (`set_learning_rate`).

    Weights decay; biases and norm scales never do, nor does the online classifier, which has its own rate under lars and sgd.
    `peak`: the highest learning rate of the run.
    """
    classifier = list(model.classifier.parameters()) if model.classifier is not None else []
    others = {id(w) for w in classifier}
    groups = lars_groups(model, weight_decay=weight_decay)
    for group in groups:
        group["params"] = [w for w in group["params"] if id(w) not in others]
        group["share"] = 1.0
    if classifier:
        own = 1.0 if kind == "adamw" else _CLASSIFIER_LR * batch_size / 256 / peak
        groups.append(dict(params=classifier, weight_decay=0.0, adapt=False, share=own))
    if kind == "lars":
        return LARS(groups, lr=0.0, momentum=momentum)
    plain: list[dict[str, Any]] = [
        {key: value for key, value in group.items() if key != "adapt"} for group in groups
    ]
    if kind == "sgd":
        return torch.optim.SGD(plain, lr=0.0, momentum=momentum)
    return torch.optim.AdamW(plain, lr=0.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """For the next step; each group takes its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["share"]

"""SimCLR: an encoder with its projection head.

Shape letters: V = views, C, H, W = channels, height, width; F = encoder width, D = projection width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from simclr.errors import ConfigError


class SimCLR(nn.Module):
    """Views (V, C, H, W) -> projections (V, D). Both views of all images go through one forward.

    With `classes`, an online linear classifier looks at the features, too, and its logits follow: (V, D + classes). It starts
    from zero and is cut off from the encoder (google-research/simclr, `lineareval_while_pretraining`).
    """

    def __init__(
        self, encoder: nn.Module, *, width: int, layers: int = 2, out: int = 128, classes: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = projection_head(width, layers=layers, out=out)
        self.classifier = nn.Linear(width, classes) if classes else None
        if self.classifier is not None:
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)

    def forward(self, views_VCHW: Tensor) -> Tensor:
        features_VF = self.encoder(views_VCHW)
        projections_VD: Tensor = self.head(features_VF)
        if self.classifier is None:
            return projections_VD
        return torch.cat([projections_VD, self.classifier(features_VF.detach())], dim=1)


def recompute_blocks(encoder: nn.Module, name: str) -> None:
    """Let a timm encoder keep only what enters its blocks. Raises ConfigError if it cannot."""
    switch: Any = getattr(encoder, "set_grad_checkpointing", None)
    try:
        switch(True)
    except (AssertionError, TypeError) as exc:  # timm's own "not supported", or no such method
        raise ConfigError(
            f"encoder {name!r} cannot recompute its blocks. Use --set recompute=false and a smaller --chunk."
        ) from exc


def projection_head(width: int, *, layers: int, out: int) -> nn.Sequential:
    """Features (V, width) -> projections (V, out), as in google-research/simclr, model_util.py.

    Each layer is linear without bias, then batch norm; hidden layers keep the encoder's width and end in ReLU,
    the last has no ReLU and its batch norm no shift. Linear weights start from N(0, 0.01).
    """
    head = nn.Sequential()
    for layer in range(layers):
        last = layer == layers - 1
        linear = nn.Linear(width, out if last else width, bias=False)
        nn.init.normal_(linear.weight, std=0.01)
        norm = nn.BatchNorm1d(linear.out_features)
        if last:
            norm.register_parameter("bias", None)
            head.extend([linear, norm])
        else:
            head.extend([linear, norm, nn.ReLU(inplace=True)])
    return head

"""Whether torch.compile fuses the encoder's operations, and how to do without it."""

from typing import Literal

import torch
from torch import nn


def compiles(setting: bool | Literal["auto"], device: torch.device) -> bool:
    """auto: on a GPU. On a CPU it was not faster (docs/log.md) and takes a C++ compiler and most of a minute."""
    return device.type == "cuda" if setting == "auto" else setting


def do_not_compile(model: nn.Module) -> None:
    """Undo `model.compile()`, which keeps the names of weights as they are and has no opposite."""
    model._compiled_call_impl = None

"""Images -> a pretrained encoder: views, loss, optimiser, and the loop that joins them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr.pretrain.config import Augmentation, PretrainConfig
    from simclr.pretrain.lars import LARS, lars_groups
    from simclr.pretrain.loss import nt_xent
    from simclr.pretrain.model import SimCLR
    from simclr.pretrain.schedule import learning_rate
    from simclr.pretrain.train import run

__all__ = [
    "LARS",
    "Augmentation",
    "PretrainConfig",
    "SimCLR",
    "lars_groups",
    "learning_rate",
    "nt_xent",
    "run",
]

_HOMES = {
    "Augmentation": "config",
    "PretrainConfig": "config",
    "LARS": "lars",
    "lars_groups": "lars",
    "nt_xent": "loss",
    "SimCLR": "model",
    "learning_rate": "schedule",
    "run": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'simclr.pretrain' has no attribute {name!r}")
    return getattr(import_module(f"simclr.pretrain.{_HOMES[name]}"), name)

"""Images -> a pretrained encoder: views, loss, optimiser, and the loop that joins them."""

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

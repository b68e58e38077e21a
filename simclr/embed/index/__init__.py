"""Store -> FAISS index: chosen, proved, kept in step with the store. Only this package says `faiss`."""

from simclr.artifacts import IndexWish
from simclr.embed.index.asking import nearest
from simclr.embed.index.build import build_index
from simclr.embed.index.check import check_index
from simclr.embed.index.files import load_index, sidecar
from simclr.embed.index.join import join_parts
from simclr.embed.index.merge import merge_indexes
from simclr.embed.index.parts import Shard, build_part, train_parts
from simclr.embed.index.update import update_index

__all__ = [
    "IndexWish",
    "Shard",
    "build_index",
    "build_part",
    "check_index",
    "join_parts",
    "load_index",
    "merge_indexes",
    "nearest",
    "sidecar",
    "train_parts",
    "update_index",
]

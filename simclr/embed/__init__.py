"""Images -> a store of vectors -> an index -> neighbours. Runs without torch."""

from simclr.embed.carry_out import Report
from simclr.embed.index import IndexWish, build_index, update_index
from simclr.embed.lane import Lane
from simclr.embed.search import Hit, Index
from simclr.embed.store import Store
from simclr.embed.sync import embed_sources
from simclr.embed.workers import Workers

__all__ = [
    "Hit",
    "Index",
    "IndexWish",
    "Lane",
    "Report",
    "Store",
    "Workers",
    "build_index",
    "embed_sources",
    "update_index",
]

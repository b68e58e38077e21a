"""An image folder -> a store of vectors -> an index -> neighbours. Runs without torch."""

from simclr.embed.folder import Report, embed_folders
from simclr.embed.index import build_index
from simclr.embed.search import Hit, Index
from simclr.embed.store import Store

__all__ = ["Hit", "Index", "Report", "Store", "build_index", "embed_folders"]

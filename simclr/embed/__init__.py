"""An image folder -> a store of vectors -> an index -> neighbours. Runs without torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr.embed.folder import Report, embed_folders
    from simclr.embed.index import build_index
    from simclr.embed.search import Hit, Index
    from simclr.embed.store import Store

__all__ = ["Hit", "Index", "Report", "Store", "build_index", "embed_folders"]

_HOMES = {
    "Hit": "search",
    "Index": "search",
    "Report": "folder",
    "Store": "store",
    "build_index": "index",
    "embed_folders": "folder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'simclr.embed' has no attribute {name!r}")
    return getattr(import_module(f"simclr.embed.{_HOMES[name]}"), name)

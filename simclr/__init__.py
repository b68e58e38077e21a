"""From a folder of unlabelled images to a running visual search.

    from simclr import Encoder, Index, Store

The names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr.embed.search import Hit, Index
    from simclr.embed.store import Store
    from simclr.runtime import Encoder

__version__ = "0.1.0"
__all__ = ["Encoder", "Hit", "Index", "Store"]

_HOMES = {
    "Encoder": "simclr.runtime",
    "Hit": "simclr.embed.search",
    "Index": "simclr.embed.search",
    "Store": "simclr.embed.store",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'simclr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

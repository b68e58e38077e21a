"""Where images come from: folders, lists, tar shards, Parquet files, URLs. Decodes nothing.

`open_collection` gives images by number, for training; `scan` and `read` go through one folder, with the size and time
of each file, for embedding.
"""

from simclr.cache_folder import cache_folder
from simclr.sources.collection import Collection
from simclr.sources.opening import open_collection
from simclr.sources.walk import Found, Skipped, list_images, read, scan

__all__ = [
    "Collection",
    "Found",
    "Skipped",
    "cache_folder",
    "list_images",
    "open_collection",
    "read",
    "scan",
]

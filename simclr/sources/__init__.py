"""Where images come from: folders, lists, tar shards, zip and Parquet files, URLs. Decodes nothing.

`open_collection` gives images by number, for training; `take_inventory` says what a source holds now, with size and stamp
of each image and the place of its bytes, for embedding.
"""

from simclr.cache_folder import cache_folder
from simclr.sources.cache import Note
from simclr.sources.collection import Collection
from simclr.sources.filters import Patterns
from simclr.sources.inventory import Inventory, take_inventory
from simclr.sources.located import locate, openable, place_of
from simclr.sources.names import Names
from simclr.sources.opening import open_collection
from simclr.sources.places import Place
from simclr.sources.places import read as read_place
from simclr.sources.remote import is_url
from simclr.sources.walk import Found, Skipped, list_images, read, scan

__all__ = [
    "Collection",
    "Found",
    "Inventory",
    "Names",
    "Note",
    "Patterns",
    "Place",
    "Skipped",
    "cache_folder",
    "is_url",
    "list_images",
    "locate",
    "open_collection",
    "openable",
    "place_of",
    "read",
    "read_place",
    "scan",
    "take_inventory",
]

"""A source -> its images by number, for training.

Takes the word that the user gave, and gives a Collection. Reads no image.
"""

import os
import posixpath
from pathlib import Path

from simclr.sources import remote
from simclr.sources.cache import Note, filling
from simclr.sources.collection import Collection, Files
from simclr.sources.contents import PACKING, contents_of
from simclr.sources.listing import image_names
from simclr.sources.members import spans_of
from simclr.sources.names import Names
from simclr.sources.patterns import short_names
from simclr.sources.recognise import Recognised, packed_in, recognise


def open_collection(source: str, *, note: Note) -> Collection:
    """Find and list the images of a source; copies and unpacks what cannot be read where it lies.

    On one machine, one process at a time does this for the same source. `note` is told what takes long or is left out.
    Raises ImageError (nothing there, or no image), ConfigError (no source of images), MissingExtra.
    """
    with filling(source.removeprefix("file://") if source.startswith("file:///") else source, note=note):
        found = recognise(source)
        if found.kind == "folder":
            if not found.is_remote and len(names := image_names(Path(found.root), note=note)):
                return Files(source, names, found.root)
            found = packed_in(found, note=note)
        return _open_files(found, note)


def _open_files(found: Recognised, note: Note) -> Collection:
    files = [copy.path for copy in remote.copies(found.files, note=note)] if found.is_remote else found.files
    shorts = short_names(list(found.files))
    root = _root(found)
    contents = contents_of(found, files, shorts, root=root, note=note)
    if isinstance(contents, Names):
        return Files(found.source, contents, root)
    left_out = [
        (short, *one.left_out[0]) for short, one in zip(shorts, contents, strict=True) if one.left_out
    ]
    if left_out:
        short, name, why = left_out[0]
        count = sum(len(one.left_out) for one in contents)
        note(f"{found.source}: {count} images cannot be read, such as {short}/{name}: {why}")
    return spans_of(found.source, shorts, contents, packing=PACKING[found.kind])


def _root(found: Recognised) -> str:
    """What paths in a list or a column are relative to; old runs know the names that come of it."""
    if found.is_remote:
        return posixpath.dirname(found.files[0])
    if found.whole_folder:
        return found.root
    folders = [os.path.dirname(file) for file in found.files]
    return folders[0] if len(folders) == 1 else os.path.commonpath(folders)

"""The images of a folder by name, fast enough for millions, and remembered between runs.

Gives what `walk.list_images` gives, without asking for the size and time of each file. What was found is kept with a
stamp of each folder, and of each file that had to be looked at, since neither its name nor its folder's stamp says
whether it is an image. So a second start asks once a folder, and looks again only where something has changed.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.cache_folder import cache_folder
from simclr.errors import ImageError
from simclr.sources.cache import (
    UNKNOWN,
    Note,
    Stamp,
    key_of,
    load_arrays,
    remember,
    stamp_of,
)
from simclr.sources.names import Names
from simclr.sources.walk import begins_as_image, has_image_suffix, unwanted

_WORTH_KEEPING = 10_000
"""Files; fewer are listed in a tenth of a second."""
_FORMAT = 1


def image_names(root: Path, *, note: Note) -> Names:
    """Relative paths of the images below a folder, in the order of `walk.scan`; none where there are none.

    Raises ImageError if `root` is no folder.
    """
    if not root.is_dir():
        what = "not a folder" if root.exists() else "no such folder"
        raise ImageError(f"{root}: {what}. Give a folder of images.")
    top = os.path.abspath(root)
    kept = cache_folder() / "listings" / f"{key_of(_FORMAT, top)}.npz"
    arrays = load_arrays(kept)
    known = _Known(top, arrays) if arrays else None
    if known and known.holds():
        return known.names
    found = _Walk(top, known)
    found.enter("")
    if len(found.names) + len(found.judged) >= _WORTH_KEEPING:
        remember(kept, found.arrays(), note=note)
    return found.names


@dataclass
class _Contents:
    """What one folder holds, by name."""

    stamp: Stamp
    images: list[str]
    """Regular files whose suffix is an image's."""
    folders: list[str]
    judged: dict[str, tuple[Stamp, bool]]
    """Links and files of other names: their stamp, and whether they are images."""


def _look(folder: str) -> _Contents:
    contents = _Contents(stamp_of(folder), [], [], {})
    try:
        with os.scandir(folder) as entries:
            for entry in entries:  # keeps names only: a million DirEntry objects take 0.3 GB
                name = entry.name
                if unwanted(name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    contents.folders.append(name)
                elif has_image_suffix(name) and entry.is_file(follow_symlinks=False):
                    contents.images.append(name)
                else:
                    contents.judged[name] = _judge(entry.path)
    except OSError:  # as in `scan`, what cannot be listed holds no image
        return _Contents(UNKNOWN, [], [], {})
    if not os.access(folder, os.X_OK):  # its files can be listed, not opened
        return _Contents(UNKNOWN, [], [], {})
    return contents


def _judge(path: str) -> tuple[Stamp, bool]:
    stamp = stamp_of(path)
    try:
        return stamp, os.path.isfile(path) and (has_image_suffix(path) or begins_as_image(path))
    except OSError:
        return UNKNOWN, False


class _Known:
    """An earlier listing."""

    def __init__(self, top: str, arrays: dict[str, NDArray[Any]]) -> None:
        self.top = top
        self.names = Names.of_lines(arrays["names"].tobytes())
        self.folders = [folder[2:] for folder in Names.of_lines(arrays["folders"].tobytes())]
        self.stamps: list[list[int]] = arrays["stamps"].tolist()
        self.folder_of = arrays["folder_of"]
        self.judged = Names.of_lines(arrays["judged"].tobytes())
        self.judged_stamps: list[list[int]] = arrays["judged_stamps"].tolist()
        self.verdicts: list[bool] = arrays["verdicts"].tolist()
        self._index: dict[str, int] | None = None

    def holds(self) -> bool:
        """Whether nothing has changed since."""
        return all(map(self._unchanged, self.folders, self.stamps)) and all(
            map(self._unchanged, self.judged, self.judged_stamps)
        )

    def contents(self, folder: str) -> _Contents | None:
        """Of a folder that has not changed; files that had to be looked at are looked at again if they have."""
        if self._index is None:
            self._sort_by_folder()
        number = (self._index or {}).get(folder)
        if number is None or not self._unchanged(folder, self.stamps[number]):
            return None
        start = len(folder)
        judged = {}
        for i in self._judged_in.get(folder, []):
            path, (a, b, c, d) = self.judged[i], self.judged_stamps[i]
            same = self._unchanged(path, [a, b, c, d])
            judged[path[start:]] = ((a, b, c, d), self.verdicts[i]) if same else _judge(self._at(path))
        first, last = np.searchsorted(self._ordered, [number, number + 1])
        own = [self.names[i][start:] for i in self._order[first:last].tolist()]
        a, b, c, d = self.stamps[number]
        images = [name for name in own if name not in judged]
        return _Contents((a, b, c, d), images, self._folders_in.get(folder, []), judged)

    def _sort_by_folder(self) -> None:
        self._index = {folder: number for number, folder in enumerate(self.folders)}
        self._order = np.argsort(self.folder_of, kind="stable")
        self._ordered = self.folder_of[self._order]
        self._folders_in: dict[str, list[str]] = {}
        for folder in self.folders[1:]:
            parent, _, name = folder[:-1].rpartition("/")
            self._folders_in.setdefault(f"{parent}/" if parent else "", []).append(name)
        self._judged_in: dict[str, list[int]] = {}
        for i, path in enumerate(self.judged):
            self._judged_in.setdefault(path[: path.rfind("/") + 1], []).append(i)

    def _unchanged(self, path: str, stamp: list[int]) -> bool:
        return stamp != [*UNKNOWN] and [*stamp_of(self._at(path))] == stamp

    def _at(self, path: str) -> str:
        return f"{self.top}/{path}"


class _Walk:
    """Depth first, names in code-point order, as `walk.scan` goes."""

    def __init__(self, top: str, known: _Known | None) -> None:
        self.top, self.known = top, known
        self._runs: list[bytes] = []
        self._lengths: list[tuple[int, int]] = []
        """Folder and number of names of each run."""
        self.folders: list[str] = []
        self.stamps: list[Stamp] = []
        self.judged: dict[str, tuple[Stamp, bool]] = {}

    def enter(self, folder: str) -> None:
        """`folder` is relative and ends with a slash; the top is empty."""
        number = len(self.folders)
        contents = (self.known.contents(folder) if self.known else None) or _look(f"{self.top}/{folder}")
        self.folders.append(folder)
        self.stamps.append(contents.stamp)
        run: list[str] = []

        def close() -> None:
            if run:
                self._runs.append("\n".join(run).encode())
                self._lengths.append((number, len(run)))
                run.clear()

        names = contents.images + contents.folders
        for name, verdict in contents.judged.items():
            self.judged[folder + name] = verdict
            if verdict[1]:
                names.append(name)
        inner = set(contents.folders)
        for name in sorted(names):
            if name in inner:
                close()
                self.enter(f"{folder}{name}/")
            else:
                run.append(folder + name)
        close()

    @property
    def names(self) -> Names:
        return Names.of_lines(b"\n".join(self._runs))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `_Known` takes."""
        numbers, lengths = np.array(self._lengths, np.int32).reshape(-1, 2).T
        return {
            "names": np.frombuffer(b"\n".join(self._runs), np.uint8),
            "folder_of": np.repeat(numbers, lengths),
            "folders": np.frombuffer("\n".join(f"./{folder}" for folder in self.folders).encode(), np.uint8),
            "stamps": np.array(self.stamps, np.int64),
            "judged": np.frombuffer("\n".join(self.judged).encode(), np.uint8),
            "judged_stamps": np.array([stamp for stamp, _ in self.judged.values()], np.int64),
            "verdicts": np.array([yes for _, yes in self.judged.values()], np.bool_),
        }

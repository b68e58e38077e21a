"""What is this source? A folder, a list of files, tar, zip or Parquet files, here or behind a URL.

Takes the word that the user gave; gives its kind and the files it stands for. Opens none of them, and does not look
whether a folder holds images: `packed_in` says what a folder without images is taken for.
"""

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simclr.errors import ConfigError, ImageError
from simclr.sources import patterns, remote
from simclr.sources.cache import Note
from simclr.sources.walk import has_image_suffix, unwanted

_FORMS = (
    "Give a folder of images, a list of files (.txt, .lst, .list), tar shards (such as shards/{000..099}.tar), zip files or "
    "Parquet files (such as data/*.parquet)"
)
_KINDS = {
    ".tar": "tar", ".zip": "zip", ".parquet": "parquet", ".pq": "parquet",
    ".txt": "list", ".lst": "list", ".list": "list",
}  # fmt: skip
PACKED = ("tar", "zip", "parquet")
_SPOKEN = {"tar": "tar", "zip": "zip", "parquet": "Parquet"}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Recognised:
    source: str
    """As the user gave it, for messages."""
    kind: str
    """`folder`, `list`, `tar`, `zip` or `parquet`."""
    word: str
    """As given, made absolute, without a column."""
    files: tuple[str, ...]
    """Absolute paths or URLs, of one kind. Of a folder: itself."""
    root: str
    """The folder that was given, or the part of the word before its first brace or glob: absolute, or a URL."""
    whole_folder: bool
    """Whether a folder was given."""
    column: str | None = None

    @property
    def is_remote(self) -> bool:
        return remote.is_url(self.files[0])


def recognise(source: str) -> Recognised:
    """Raises ImageError (nothing is there), ConfigError (no source of images)."""
    word = source.removeprefix("file://") if source.startswith("file:///") else source
    if not remote.is_url(word) and os.path.isdir(word):
        whole = os.path.abspath(word)
        return Recognised(source, "folder", whole, (whole,), whole, True)
    word, column = _split_column(word)
    if remote.is_url(word):
        files = remote.find(word)
        whole = word
    else:
        files = patterns.local_files(word)
        whole = os.path.abspath(word)
    if not files:
        raise ImageError(f"{source}: no file matches. {_FORMS}.")
    if remote.is_url(word):
        if len(files) == 1 and not kind_of(files[0]):
            folder = files[0].rstrip("/")
            return Recognised(source, "folder", folder, (folder,), folder, True)
    else:
        _refuse_missing(source, word, files)
    return Recognised(source, _one_kind(source, files), whole, tuple(files), base_of(whole), False, column)


def packed_in(folder: Recognised, *, note: Note) -> Recognised:
    """The tar, zip or Parquet files of a folder that holds no image; those for training where names say so.

    Says which. Raises ImageError (there are none), ConfigError (there are several kinds).
    """
    source = folder.source
    inside = remote.inside(folder.root) if folder.is_remote else _inside(folder.root)
    files = [file for file in inside if kind_of(file) in PACKED]
    kinds = sorted({kind_of(file) for file in files}, key=PACKED.index)
    if len(kinds) > 1:
        spoken = [_SPOKEN[kind] for kind in kinds]
        raise ConfigError(
            f"{source}: holds {', '.join(spoken[:-1])} and {spoken[-1]} files. Say which: {source.rstrip('/')}/*.{kinds[0]}"
        )
    if not files:
        _refuse_compressed(inside)
        if folder.is_remote:
            raise ConfigError(
                f"{source}: neither tar, zip, Parquet nor a list, nor a folder that holds such files. To train on a remote folder "
                "of images, copy it here first."
            )
        raise ImageError(f"{source}: no image found in it or below. Give a folder that holds images.")
    train = [file for file in files if os.path.basename(file).startswith("train")]
    if train and len(train) < len(files):
        note(
            f"{source}: no image in it; reading its {len(train)} {kinds[0]} files named train*, of {len(files)}"
        )
        files = train
    else:
        note(f"{source}: no image in it; reading its {len(files)} {kinds[0]} files")
    return replace(folder, kind=kinds[0], files=tuple(files))


def base_of(word: str) -> str:
    """The folder of a file, or of the files that braces and globs stand for: the part before the first of them."""
    if not remote.is_url(word) and os.path.isdir(word):
        return word
    if remote.is_url(word) and word.startswith("http"):
        word = word.partition("?")[0]
    folders, _, name = word.rpartition("/")
    if not remote.is_url(word) and os.path.exists(word):  # a name may hold braces
        return folders or "/"
    if not kind_of(name) and not patterns.stands_for_several(word):
        return word.rstrip("/")  # a remote folder
    parts = folders.split("/")
    if parts[0].endswith(":") and len(parts) == 2:  # protocol://FILE
        return f"{parts[0]}//"
    plain = 0
    while plain < len(parts) and not patterns.stands_for_several(parts[plain]):
        plain += 1
    return "/".join(parts[:plain]) or "/"


def kind_of(file: str) -> str:
    """`list`, `tar`, `zip`, `parquet`, or nothing."""
    name = file.partition("?")[0] if file.startswith("http") else file
    return _KINDS.get(os.path.splitext(name)[1].lower(), "")


def _one_kind(source: str, files: Sequence[str]) -> str:
    _refuse_compressed(files)
    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1 or kinds == {""}:
        file = next(file for file in files if not kind_of(file) or len(kinds) > 1)
        if has_image_suffix(file):
            raise ConfigError(
                f"{source}: one image, or several. Give their folder, or a list of them in a .txt file."
            )
        raise ConfigError(
            f"{source}: {'not a folder' if len(files) == 1 else 'files of several kinds'}. {_FORMS}."
        )
    if kinds == {"list"} and len(files) > 1:
        raise ConfigError(f"{source}: several lists. Join them to one file.")
    return kinds.pop()


def _refuse_missing(source: str, word: str, files: Sequence[str]) -> None:
    missing = [file for file in files if not os.path.exists(file)]
    if missing and len(files) > 1:
        raise ImageError(
            f"{source}: {len(missing)} of its {len(files)} files are missing, such as {missing[0]}. Mend its name."
        )
    if missing:
        what, give = ("file", "Mend its name") if kind_of(word) else ("folder", "Give a folder of images")
        raise ImageError(f"{source}: no such {what}. {give}.")


def _refuse_compressed(files: Sequence[str]) -> None:
    for file in files:
        if file.lower().endswith(_COMPRESSED):
            raise ConfigError(
                f"{file}: a compressed tar, in which no single image can be found. Decompress it first: gunzip, unzstd, ..."
            )


def _inside(folder: str) -> list[str]:
    files = []
    for place, folders, inner in os.walk(folder):
        folders[:] = sorted(name for name in folders if not unwanted(name))
        files += [os.path.join(place, name) for name in sorted(inner) if not unwanted(name)]
    return files


def _split_column(word: str) -> tuple[str, str | None]:
    """`FILE.parquet#COLUMN` -> file and column."""
    file, _, column = word.rpartition("#")
    if column and kind_of(file) == "parquet" and not os.path.exists(word):
        return file, column
    return word, None


def relative(file: str, root: str) -> str:
    """A path or URL below a root, without it."""
    if remote.is_url(root):
        return posixpath.relpath(_plain(file), _plain(root))
    return os.path.relpath(file, root).replace(os.sep, "/")


def _plain(url: str) -> str:
    """Some file systems answer with a slash more: memory:///a for memory://a."""
    protocol, _, path = url.partition("://")
    return f"{protocol}/{path.lstrip('/')}"

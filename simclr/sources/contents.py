"""The images that a list, or tar, zip or Parquet files, name or hold. Training and embedding read them alike."""

from collections.abc import Sequence

from simclr.errors import ConfigError, ImageError
from simclr.sources import parquet, tar, zips
from simclr.sources.cache import Note
from simclr.sources.members import Members
from simclr.sources.names import Names
from simclr.sources.recognise import Recognised

PACKING = {"tar": "", "zip": "zip", "parquet": ""}
"""As `Place` has it."""


def contents_of(
    found: Recognised, files: Sequence[str], shorts: Sequence[str], *, root: str, note: Note
) -> Names | list[Members]:
    """Names relative to `root` where the source is a list or a column of paths, else what each file holds.

    `files` are those of the source on this machine, `shorts` what they are called. Raises ImageError (nothing is in
    there), ConfigError, MissingExtra.
    """
    if found.kind == "list":
        return _lines(found.source, files[0], note)
    if found.kind == "parquet":
        columns, are_paths = parquet.columns(files, shorts, found.column)
        if are_paths:
            return parquet.paths(found.source, files, columns, root)
        members = parquet.members(found.source, files, columns, note=note)
        missing = "none of its rows holds an image. Give files that hold images."
    else:
        look = tar.members if found.kind == "tar" else zips.members
        members = [look(file, note=note) for file in files]
        if found.kind == "zip" and all(one.fault for one in members):
            raise ConfigError(f"{files[0]}: {members[0].fault}. Restore or remove it.")
        for short, one in zip(shorts, members, strict=True):
            if one.fault:
                note(f"{short}: {one.fault}; its first {len(one.names)} images are used")
        what = "tars" if found.kind == "tar" else "zip files"
        missing = f"no member with an image's suffix in it. Give {what} that hold images."
    if not any(len(one.names) for one in members):
        raise ImageError(f"{found.source}: {missing}")
    return members


def _lines(source: str, file: str, note: Note) -> Names:
    """One path or URL a line, relative to the list's folder or absolute. A line that begins with # is a remark (a file of
    such a name is written ./#...). Files that are missing show when they are read."""
    names: dict[str, None] = {}
    repeated = 0
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for line in lines:
                name = line.strip()
                if name and not name.startswith("#"):
                    repeated += name in names
                    names[name] = None
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{source}: is no text in UTF-8 (byte {exc.start:,}). Write one path a line."
        ) from exc
    except OSError as exc:
        raise ImageError(f"{source}: cannot be read ({exc.strerror or exc}).") from exc
    if not names:
        raise ImageError(f"{source}: names no file. Write one path a line.")
    if repeated:
        note(f"{source}: {repeated} lines repeat an earlier one; each file is taken once")
    return Names.of(names)

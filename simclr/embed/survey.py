"""Sources and a store -> what is to be done: every source looked through and compared with the store. Changes nothing.

Takes the words of a command; refuses sources that would give an image two rows. Reads no image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from simclr.artifacts import SourceInfo
from simclr.embed.plan import Plan, Rows, make_plan
from simclr.embed.skips import Skips
from simclr.embed.store import Store
from simclr.errors import ConfigError
from simclr.sources import Note, Patterns, is_url, take_inventory

_PACKED = ("tar", "zip", "parquet")


@dataclass(frozen=True)
class Selection:
    """Which images of the sources are meant."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    """Globs, see `sources.Patterns`."""
    follow_links: bool = False
    """Whether folders that are links are gone into."""
    forget: tuple[str, ...] = ()
    """Sources of the store whose rows are gone, though nobody can look: a folder that was moved or given up."""


EVERYTHING = Selection()


def look(words: Sequence[str], store: Store, selection: Selection, skips: Skips, *, note: Note) -> Plan:
    """Go through the sources and compare them with the store. Changes nothing."""
    known = store.info.sources
    rows = Rows.of(store)
    forgotten = [number for word in selection.forget for number in _numbers(known, word)]
    in_use = set(np.unique(rows.sources).tolist()) - set(forgotten)
    refuse_nesting(folders_of(words) | {known[i].root for i in in_use if known[i].kind == "folder"})
    inventories = [
        take_inventory(
            word,
            patterns=Patterns(selection.include, selection.exclude),
            follow_links=selection.follow_links,
            skip=partial(skips.add, _place(word)),
            note=note,
        )
        for word in words
    ]
    found = [SourceInfo(kind=inventory.kind, root=inventory.root) for inventory in inventories]
    for source, word in zip(found, words, strict=True):
        if found.count(source) > 1:
            raise ConfigError(
                f"{word}: the same source twice, {source.kind} of {source.root}. Give each once, and several files of one folder as "
                "one word: put quotes around braces and globs."
            )
        packed = [known[i] for i in in_use if known[i].root == source.root and known[i].kind in _PACKED]
        if source.kind == "folder" and packed:
            raise ConfigError(
                f"{word}: the store has images of its {packed[0].kind} files, but now it holds an image beside them. Name which: "
                f"'{word.rstrip('/')}/*.{packed[0].kind}'"
            )
        if any(known[number] == source for number in forgotten):
            raise ConfigError(f"{word}: is to be embedded and forgotten. Leave out --forget {word}.")
    return make_plan(rows, known, inventories, forgotten=forgotten)


def folders_of(words: Sequence[str]) -> set[str]:
    """Those of the words that name folders here, whole and without links. Raises ConfigError if one comes twice."""
    folders = [str(Path(word).resolve()) for word in words if not is_url(word) and Path(word).is_dir()]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError(f"{folder}: the same folder twice. Give each folder once.")
    return set(folders)


def refuse_nesting(folders: set[str]) -> None:
    """Raises ConfigError where one lies in another: its files would have two rows."""
    for inner in folders:
        if outer := folders.intersection(map(str, Path(inner).parents)):
            raise ConfigError(
                f"{inner}: lies in {outer.pop()}, which is in the store or given, too. Embed only one of them."
            )


def _place(word: str) -> str:
    return word if is_url(word) else str(Path(word).resolve())


def _numbers(sources: Sequence[SourceInfo], word: str) -> list[int]:
    """Of the sources with this root."""
    numbers = [i for i, source in enumerate(sources) if source.root in (word, _place(word))]
    if numbers:
        return numbers
    raise ConfigError(
        f"--forget {word}: not among the store's sources, which are {', '.join(source.root for source in sources) or 'none'}."
    )

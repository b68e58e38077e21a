"""Several files in one word: braces as WebDataset writes them, and globs."""

import glob
import itertools
import os
import re

from simclr.errors import ConfigError

_MOST = 1_000_000
"""Files that one word may stand for."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(text: str) -> list[str]:
    """`a{00..02}.tar` -> a00.tar, a01.tar, a02.tar; `{a,b}` -> a, b; several braces: the last one runs fastest.

    Numbers are padded to the wider end where one begins with 0, as in a shell. Other braces stay as they are.
    Raises ConfigError for more than a million.
    """
    parts: list[list[str]] = []
    end = count = 0
    for match in _BRACES.finditer(text):
        choices = _choices(match[1]) or [match[0]]
        parts += [[text[end : match.start()]], choices]
        end = match.end()
        count = max(count, 1) * len(choices)
        if count > _MOST:
            raise ConfigError(f"{text}: stands for more than {_MOST:,} files. Mend its braces.")
    return ["".join(words) for words in itertools.product(*parts, [text[end:]])]


def _choices(inner: str) -> list[str]:
    if numbers := _RANGE.fullmatch(inner):
        first, last = numbers.groups()
        padded = any(len(end) > 1 and end[0] == "0" for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        low, high = int(first), int(last)
        if abs(high - low) >= _MOST:
            raise ConfigError(f"{{{inner}}}: stands for more than {_MOST:,} files. Mend its braces.")
        step = 1 if high >= low else -1
        return [f"{number:0{width}d}" for number in range(low, high + step, step)]
    return inner.split(",") if "," in inner else []


def has_glob(text: str) -> bool:
    return glob.has_magic(text)


def stands_for_several(text: str) -> bool:
    """Whether a word has a glob or braces in it."""
    return has_glob(text) or expand_braces(text) != [text]


def local_files(text: str) -> list[str]:
    """Absolute paths that a word stands for: braces in the order written, globs sorted. What is missing, too."""
    if os.path.exists(text):  # a name may hold braces
        return [os.path.abspath(text)]
    files: list[str] = []
    for word in expand_braces(text):
        found = sorted(glob.glob(word, recursive=True)) if has_glob(word) else [word]
        files += map(os.path.abspath, found)
    return list(dict.fromkeys(files))


def short_names(files: list[str]) -> list[str]:
    """Paths or URLs without the folders that all of them lie in."""
    parts = [file.split("/") for file in files]
    folders = [words[:-1] for words in parts]
    shared = 0
    while all(len(words) > shared and words[shared] == folders[0][shared] for words in folders):
        shared += 1
    return ["/".join(words[shared:]) for words in parts]

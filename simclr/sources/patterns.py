"""Globs: several files in one word, braces as WebDataset writes them among them; and which images are meant."""

import fnmatch
import glob
import itertools
import os
import re
from dataclasses import dataclass
from functools import cached_property

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


def fixed_part(word: str) -> str:
    """The absolute folder, or URL of one, that all files lie in which a word stands for: before its first brace or glob."""
    first = re.search(r"[{*?\[]", word.partition("://")[2] if "://" in word else word)
    if "://" in word:
        start = len(word.partition("://")[0]) + 3
        fixed = word[: start + first.start()] if first and not os.path.exists(word) else word
        return fixed.rpartition("/")[0]
    fixed = word[: first.start()] if first and not os.path.exists(word) else word
    return os.path.dirname(os.path.abspath(f"{fixed}x"))


@dataclass(frozen=True)
class Patterns:
    """Which images are meant, by their names relative to their source.

    A pattern without a slash is tried on the file's own name and on that of each folder on its way; one with a slash is
    tried from the top, and means all that lies below, too. `*` and `?` stop at slashes, `**` stands for any number of
    folders. Case counts.
    """

    include: tuple[str, ...] = ()
    """None: all."""
    exclude: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        if self._excluded is not None and self._excluded.match(name):
            return False
        return self._included is None or self._included.match(name) is not None

    def enters(self, folder: str) -> bool:
        """Whether anything below a folder may be meant."""
        return self._excluded is None or self._excluded.match(folder) is None

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    @cached_property
    def _included(self) -> re.Pattern[str] | None:
        return _any_of(self.include)

    @cached_property
    def _excluded(self) -> re.Pattern[str] | None:
        return _any_of(self.exclude)


ALL = Patterns()


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    return re.compile("|".join(f"(?:{_regex(pattern)})" for pattern in patterns), re.DOTALL)


def _regex(pattern: str) -> str:
    words = pattern.strip("/").split("/")
    if len(words) == 1 and not pattern.startswith("/"):
        words = ["**", *words]
    last = len(words) - 1
    parts = []
    for i, word in enumerate(words):
        if word == "**":
            parts.append("(?:[^/]+/)*" if i < last else ".*")
        else:
            parts.append(_segment(word) + ("/" if i < last else "(?:/.*)?"))
    return "".join(parts) + r"\Z"


def _segment(word: str) -> str:
    """`*`, `?` and `[...]` of one name, as fnmatch has them, but never a slash."""
    out, i = "", 0
    while i < len(word):
        letter = word[i]
        i += 1
        end = word.find("]", i + 1 + (word[i : i + 1] == "!")) if letter == "[" else -1
        if letter == "*":
            out += "[^/]*"
        elif letter == "?":
            out += "[^/]"
        elif end > 0:
            set_ = fnmatch.translate(word[i - 1 : end + 1]).removeprefix("(?s:").removesuffix(r")\Z")
            out += f"(?!/){set_}"
            i = end + 1
        else:
            out += re.escape(letter)
    return out

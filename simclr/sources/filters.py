"""Which names of a source are wanted: include and exclude patterns. Touches no file.

A pattern without a slash means a file or folder of that name, wherever it lies; one with a slash is read from the
root. Either takes with it all that lies below a folder it means; a slash at the end means folders only. `*`, `?` and `[...]` stay
within one name, `**` between slashes stands for any number of folders. Letters count in their case.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from simclr.errors import ConfigError

_TOKEN = re.compile(r"\*+|\?|\[!?\]?[^]]*\]|.", re.DOTALL)


@dataclass(frozen=True)
class Patterns:
    """Wanted is what one of `include` matches, all where it is empty, unless one of `exclude` does."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _ = self._include, self._exclude  # a pattern that is none is refused here

    def takes(self, name: str) -> bool:
        """Whether a file is wanted, by its path from the root."""
        path = _path(name)
        if self._exclude is not None and self._exclude.match(path):
            return False
        return self._include is None or self._include.match(path) is not None

    def closes(self, folder: str) -> bool:
        """Whether nothing below a folder can be wanted, by its path from the root."""
        return self._exclude is not None and self._exclude.match(_path(folder) + "/") is not None

    @cached_property
    def _include(self) -> re.Pattern[str] | None:
        return _compiled(self.include)

    @cached_property
    def _exclude(self) -> re.Pattern[str] | None:
        return _compiled(self.exclude)


def _path(name: str) -> str:
    """Without a slash in front and parts that say nothing, which names from lists and tars may have."""
    if name.startswith(("/", "./")) or "//" in name or "/./" in name:
        return "/".join(part for part in name.split("/") if part not in ("", "."))
    return name


def _compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    return re.compile("|".join(map(_regex, patterns)), re.DOTALL)


def _regex(pattern: str) -> str:
    body = pattern.rstrip("/")
    parts = [part for part in body.split("/") if part not in ("", ".")]
    if not parts:
        raise ConfigError(f"pattern {pattern!r}: matches no name. Give one such as '*.png' or 'raw/**'.")
    if "/" not in body and parts != ["**"]:
        parts.insert(0, "**")  # a name, wherever it lies
    text = ""
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:.*/)?"
        else:
            text += _name(part) + ("" if last else "/")
    below = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    try:
        return re.compile(f"(?:{text}{below})\\Z", re.DOTALL).pattern
    except re.error as exc:
        raise ConfigError(f"pattern {pattern!r}: cannot be read ({exc}). Mend its brackets.") from exc


def _name(part: str) -> str:
    text = ""
    for token in _TOKEN.findall(part):
        if token[0] == "*":
            text += "[^/]*"
        elif token == "?":
            text += "[^/]"
        elif len(token) > 2 and token[0] == "[":
            inner = token[1:-1].removeprefix("!")
            inner = "".join(
                letter if letter == "-" or letter.isalnum() else f"\\{letter}" for letter in inner
            )
            text += f"(?!/)[{'^' if token[1] == '!' else ''}{inner}]"
        else:
            text += re.escape(token)
    return text


EVERYTHING = Patterns()

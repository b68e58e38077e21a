"""A frozen dataclass <-> a JSON file that says what it is, sealed where nobody edits it. Knows none of them."""

import hashlib
import json
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from simclr.artifacts.atomic import write_atomically
from simclr.errors import ArtifactError, ConfigError
from simclr.preprocess import Recipe

FORMAT = 1
"""Version of every file described here; raised when an old reader would misread a new file."""


class Artifact:
    """JSON in and out for the frozen dataclasses of this package; `KIND` says which file it is."""

    KIND = ""
    MADE_BY = ""
    """The verb that writes such a file, where a user would think of it."""
    SEALED = False
    """Whether the file carries a checksum of its own: nobody edits it, and nothing else vouches for it."""

    def save(self, path: Path) -> None:
        assert is_dataclass(self) and not isinstance(self, type)
        values = asdict(self)
        head = {"simclr": self.KIND, "format": FORMAT} | ({"seal": _seal(values)} if self.SEALED else {})
        text = _text(head | values)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ArtifactError if the file is missing, damaged, or of another kind or version."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            kind, version = values.pop("simclr"), values.pop("format")
            whole = not cls.SEALED or values.pop("seal", None) == _seal(values)
        except FileNotFoundError:
            made = f" Make it with `simclr {cls.MADE_BY}`." if cls.MADE_BY else ""
            raise ArtifactError(f"{path}: no such file.{made}") from None
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as exc:
            raise ArtifactError(f"{path}: damaged, or not written by simclr ({_line(exc)}).") from exc
        if kind != cls.KIND:
            raise ArtifactError(f"{path}: describes a {_line(kind)}, but a {cls.KIND} is needed here.")
        if version != FORMAT:
            raise ArtifactError(
                f"{path}: format {_line(version)}, but this simclr reads {FORMAT}. Write it again."
            )
        if not whole:
            raise ArtifactError(f"{path}: damaged or edited, its seal is broken.")
        try:
            built: Self = _build(cls, values)
            return built
        except (
            ArtifactError,
            ConfigError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as exc:  # two are the recipe's
            raise ArtifactError(f"{path}: damaged ({_line(exc).rstrip('.')}). Write it again.") from exc


def _text(values: dict[str, Any]) -> str:
    """As JSON, for people to read; all in ASCII where a path is not Unicode."""
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(values, indent=2) + "\n"
    return text


def _seal(values: dict[str, Any]) -> str:
    """SHA-256 of the values, however the JSON around them is laid out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _line(found: object) -> str:
    """What a file or an exception says, on one line of a length to read; a damaged file says anything."""
    try:
        text = " ".join(str(found).split())
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists a thousand deep
        return f"a {type(found).__name__}"
    return text if len(text) <= 300 else text[:299] + "…"


def _build(cls: Any, value: Any) -> Any:
    """JSON values -> the annotated type: dataclasses, tuples and dicts of them, or plain values."""
    if cls is Recipe:
        return Recipe.from_dict(value)
    if is_dataclass(cls):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is no object")
        hints = get_type_hints(cls)
        known = {f.name for f in fields(cls)}
        if set(value) != known:
            raise ValueError(f"missing or unknown: {', '.join(sorted(set(value) ^ known))}")
        return cls(**{name: _build(hints[name], value[name]) for name in known})  # type: ignore[operator]
    origin = get_origin(cls)
    if origin is UnionType:  # `X | None`
        return None if value is None else _build(get_args(cls)[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(_build(get_args(cls)[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {key: _build(get_args(cls)[1], item) for key, item in value.items()}
    if origin in (tuple, dict):
        raise TypeError(f"{value!r} is no {'list' if origin is tuple else 'object'}")
    if cls in (str, int, float, bool):
        accepted = (int, float) if cls is float else cls
        if not isinstance(value, accepted) or (cls is int and isinstance(value, bool)):
            raise TypeError(f"{value!r} is no {cls.__name__}")
        return float(value) if cls is float else value
    return value

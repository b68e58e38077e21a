"""Budgets as people write them: `2GB`, `10ms`, and back. Decides nothing."""

import re

from simclr.artifacts import IndexWish
from simclr.errors import ConfigError

_BYTES = {"": 1, "b": 1, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12,
          "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}  # fmt: skip
_MILLISECONDS = {"": 1, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]*)\s*", re.IGNORECASE)


def wish_of(
    index_type: str | None, memory: str | None, recall: float | None, latency: str | None
) -> IndexWish | None:
    """What is asked for, with the defaults for what is not said; None where nothing is said. Raises ConfigError."""
    said: dict[str, object] = {}
    if index_type is not None:
        said["index_type"] = index_type
    if memory is not None:
        said["memory"] = round(_amount(memory, _BYTES, "memory", "such as 2GB or 500MB"))
    if recall is not None:
        said["recall"] = recall
    if latency is not None:
        said["latency"] = _amount(latency, _MILLISECONDS, "latency", "such as 10ms")
    return IndexWish(**said) if said else None  # type: ignore[arg-type]


def in_bytes(count: float) -> str:
    """1234567 -> `1.23 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _amount(text: str, units: dict[str, float], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in units:
        raise ConfigError(f"{what} {text!r}: not an amount. Give one {example}.")
    return float(match[1]) * units[match[2].lower()]

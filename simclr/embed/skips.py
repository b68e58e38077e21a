"""`skipped.csv`: every file that a run did not embed, with the reason. Written as they come, so it takes no memory."""

import csv
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from simclr.artifacts import fsync_folder
from simclr.embed.store import SKIPPED_FILE

HEAD = ["source", "path", "reason"]


class Skips:
    """Counts what is skipped; writes it beside `skipped.csv` of a store, which `publish` replaces."""

    def __init__(self, store: Path | None) -> None:
        """Without a store it only counts."""
        self.count = 0
        self.reasons: Counter[str] = Counter()
        """How many files have each kind of reason."""
        self._path = None if store is None else store / SKIPPED_FILE
        self._temporary = None if store is None else store / f".{SKIPPED_FILE}.{os.getpid()}.tmp"
        self._file = None
        if self._temporary is not None:
            self._file = open(self._temporary, "w", encoding="utf-8", errors="backslashreplace", newline="")
            csv.writer(self._file, lineterminator="\n").writerow(HEAD)

    def add(self, source: str, path: str, reason: str) -> None:
        self.count += 1
        self.reasons[kind_of(reason)] += 1
        if self._file is not None:
            csv.writer(self._file, lineterminator="\n").writerow([source, path, reason])

    def publish(self) -> None:
        """Raises OSError."""
        if self._file is None or self._temporary is None or self._path is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._path)
        fsync_folder(self._path.parent)

    def discard(self) -> None:
        """Of a run that did nothing: the file of the one before stays."""
        if self._file is not None and self._temporary is not None:
            with suppress(OSError):  # a full disk: there is nothing to keep
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def kind_of(reason: str) -> str:
    """A reason without what differs from file to file."""
    for mark in (":", " (", ". ", " back to "):
        reason = reason.partition(mark)[0]
    return reason

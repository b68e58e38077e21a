"""The images of a run that could not be read, and why: how many may be, and `skipped.csv` of its folder."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from simclr.artifacts import write_atomically
from simclr.errors import ImageError
from simclr.pretrain import distributed

SKIPPED_FILE = "skipped.csv"


class Skipped:
    """What a run has skipped so far, beginning with what its folder says."""

    def __init__(
        self, folder: Path, *, source: str, images: int, limit: float, note: Callable[[str], None]
    ) -> None:
        """`source` has so many images, of which the share `limit` may be unreadable."""
        self.folder, self.source, self.images, self.limit, self.note = folder, source, images, limit, note
        self.reasons = read_skipped(folder)

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, unreadable: list[tuple[str, str]]) -> None:
        """Remember what could not be read; raises ImageError where that is too much to go on."""
        for path, why in unreadable:
            if path not in self.reasons:
                self.reasons[path] = why
                self.note(f"skipped {path}: {why}")
        if len(self.reasons) > self.limit * self.images:
            path, why = next(iter(self.reasons.items()))
            raise ImageError(
                f"{self.source}: {len(self.reasons)} of its {self.images} images cannot be read, more than the share of {self.limit:g} "
                f"that unreadable_limit allows ({path}: {why}). Mend them, or raise it with --set."
            )

    def exchange(self) -> None:
        """Every process learns what the others have skipped."""
        for reasons in distributed.from_all(self.reasons):
            self.reasons |= reasons

    def write(self) -> None:
        if self.reasons:
            write_skipped(self.folder, self.reasons)


def read_skipped(folder: Path) -> dict[str, str]:
    """Path -> reason; empty where there is no such file."""
    path = folder / SKIPPED_FILE
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def write_skipped(folder: Path, skipped: dict[str, str]) -> None:
    """One row an image, by path."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "reason"])
    rows.writerows(sorted(skipped.items()))
    write_atomically(
        folder / SKIPPED_FILE, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8")
    )

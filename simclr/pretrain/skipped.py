"""`skipped.csv` of a run folder: the images that could not be read, and why."""

import csv
import io
from pathlib import Path

from simclr.artifacts import write_atomically

SKIPPED_FILE = "skipped.csv"


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

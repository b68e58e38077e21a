"""A CSV of labelled images: columns path and label, perhaps split. Read and checked; looks at no image."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from simclr.errors import ConfigError, reason

TRAIN, TESTS = "train", ("test", "val", "validation")
"""Splits. Of several to test on the first one is taken."""


@dataclass(frozen=True)
class LabelTable:
    """The three are parallel."""

    paths: list[str]
    labels: list[str]
    splits: list[str] | None
    """None where there is no such column."""

    @property
    def tests(self) -> str | None:
        """The split to test on; None where no row has one."""
        return next((name for name in TESTS if name in (self.splits or ())), None)


def read_label_table(table: Path) -> LabelTable:
    """Raises ConfigError where it cannot be read, lacks something, or names an image twice."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as exc:
        raise ConfigError(f"{table}: is no CSV in UTF-8 ({exc}). Write it again.") from exc
    except OSError as exc:
        raise ConfigError(
            f"{table}: cannot be read ({exc.strerror or reason(exc)}). Give a CSV with the columns path and label."
        ) from exc
    if lacking := [name for name in ("path", "label") if name not in columns]:
        raise ConfigError(
            f"{table}: has no column {' and none '.join(lacking)} (but {', '.join(columns) or 'nothing'}). Its first line must "
            "name path and label, and may name split."
        )
    if not rows:
        raise ConfigError(f"{table}: no row below its first line. Add the images.")
    has_split = "split" in columns
    for number, row in enumerate(rows, start=2):
        if not row["path"] or not row["label"]:
            raise ConfigError(f"{table}: line {number} has no {'label' if row['path'] else 'path'}. Add it.")
        if has_split and row["split"] not in (TRAIN, *TESTS):
            raise ConfigError(
                f"{table}: line {number} has the split {row['split']!r}. Use {TRAIN}, {', '.join(TESTS)}."
            )
    paths = [row["path"] for row in rows]
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"{table}: {path} is named {times} times. Name each image once.")
    splits = [row["split"] for row in rows] if has_split else None
    if splits is not None and TRAIN not in splits:
        raise ConfigError(f"{table}: no row has the split {TRAIN}. Mark the images to train on.")
    return LabelTable(paths, [row["label"] for row in rows], splits)

"""What an export found, as a table: one row a precision, one recommended. Measures nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simclr.artifacts import EncoderInfo, ModelFile
from simclr.errors import ExportMismatch
from simclr.runtime.model_files import FILE_OF

REPORT_FILE = "FIDELITY.md"

_COLUMNS = (
    "precision", "MB", "cosine min", "1 %", "mean", "recall@1", "recall@10", "top-1", "batches", "images/s", "verdict",
)  # fmt: skip


_WORTH = 1.15
"""Times as fast as fp32; less is noise, or not worth a changed vector."""


@dataclass(frozen=True)
class Row:
    name: str
    """Of the file."""
    file: ModelFile
    speed: dict[int, float]
    """Batch size -> images a second here; empty where nothing here runs the file."""

    @property
    def best(self) -> float:
        """Images a second at the best batch size."""
        return max(self.speed.values(), default=0.0)

    @property
    def verdict(self) -> str:
        if self.file.fidelity.passed:
            return "ok"
        return "accepted" if self.file.accepted else "UNUSABLE"

    @property
    def cells(self) -> tuple[str, ...]:
        f = self.file.fidelity
        return (
            self.file.precision,
            f"{self.file.size / 1e6:.1f}",
            f"{f.cosine_min:.6f}",
            f"{f.cosine_low:.6f}",
            f"{f.cosine_mean:.6f}",
            _share(f.recall_1),
            _share(f.recall_10),
            _share(f.top_1),
            "-" if f.batch_cosine is None else f"{f.batch_cosine:.6f}",
            f"{self.best:.1f}" if self.speed else "-",
            self.verdict,
        )


def refuse_failed(folder: Path, rows: Sequence[Row]) -> None:
    """Raises ExportMismatch if a file is marked unusable."""
    if failed := [row for row in rows if not row.file.usable]:
        said = "; ".join(f"{row.name}: {row.file.fidelity.failed}" for row in failed)
        raise ExportMismatch(
            f"{folder}: {said}. Marked unusable; the other files are good. Keep it all the same with --accept."
        )


def to_lines(rows: Sequence[Row]) -> list[str]:
    """A table for the terminal, then the recommendation. The first row is fp32's."""
    cells = [_COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    table = [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells
    ]
    return [*table, recommendation(rows)]


def recommendation(rows: Sequence[Row]) -> str:
    """The fastest usable precision of those that run here, and what it costs."""
    fp32 = rows[0]
    # the file for TensorRT says nothing of its speed on a CPU; as a plan it has another name
    rows = [row for row in rows if row.file.usable and row.speed and row.name != FILE_OF["int8-trt"]]
    best = max(rows, key=lambda row: row.best)
    recall = best.file.fidelity.recall_10
    if best.best < _WORTH * fp32.best:
        return "recommended here: fp32, nothing else exported is faster on this machine"
    kept = "its neighbours were not measured" if recall is None else f"{recall:.1%} of neighbours kept"
    return f"recommended here: {best.file.precision}: {best.best / fp32.best:.1f}x faster than fp32, {kept}"


def to_markdown(info: EncoderInfo, rows: Sequence[Row]) -> str:
    """FIDELITY.md."""
    sizes = sorted({size for row in rows for size in row.speed})
    lines = [
        f"# Fidelity of {info.name} at {info.recipe.size} px",
        "",
        f"Identity {info.identity[:16]}. Vectors of each precision against those of fp32; fp32 against PyTorch.",
        "",
        *_table(_COLUMNS, [row.cells for row in rows]),
        "",
        *(f"- {row.file.precision}: {row.file.fidelity.failed}" for row in rows if row.file.fidelity.failed),
        f"**{recommendation(rows)}**",
        "",
        "What was compared, and by what:",
        "",
        *(
            f"- {row.file.precision}: {row.file.fidelity.images} images, {row.file.fidelity.measured_on}"
            for row in rows
        ),
        "",
        "Images a second by batch size, on the machine that exported:",
        "",
        *_table(("precision", *map(str, sizes)), [_speeds(row, sizes) for row in rows if row.speed]),
        "",
        "recall@k: share of the k nearest neighbours that stay, both sides in the tested precision; a neighbour within",
        "1e-5 of the k-th counts as kept. Not measured with fewer than 256 images of one's own (`--check FOLDER`).",
        "top-1: share of images whose nearest neighbour is the very same. batches: smallest cosine between vectors of",
        "one image in batches of different sizes.",
    ]
    return "\n".join(lines) + "\n"


def _speeds(row: Row, sizes: Sequence[int]) -> tuple[str, ...]:
    return (row.file.precision, *(f"{row.speed[size]:.1f}" if size in row.speed else "-" for size in sizes))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"

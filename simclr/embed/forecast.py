"""What `simclr embed` would do, and what it would take: found by comparing, and by embedding a few images. Writes nothing."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simclr.embed.skips import Skips
from simclr.embed.store import Store, is_store
from simclr.embed.survey import EVERYTHING, Selection, folders_of, look, refuse_nesting
from simclr.embed.tasks import Embeds, Seconds, bound
from simclr.embed.writer import files_to_copy, first_manifest
from simclr.free_memory import resident_peak
from simclr.sources import Note

SAMPLE, SAMPLE_BATCHES = 200, 4
"""Images and batches tried at least, of images drawn from all that are to embed; the first batch is not counted."""
SAMPLE_SECONDS = 15.0
_ROW_BYTES = 250
"""Metadata of a row in both copies, compressed; paths decide. caltech40: 120."""
_MEMORY_ROW_BYTES = 200


@dataclass(frozen=True)
class Forecast:
    new: int
    """Images to read: to embed, or to take over where their content is known."""
    changed: int
    """Of other size or time than when they were embedded."""
    gone: int
    """Rows to drop, unless their content is found under a new path."""
    kept: int
    skipped: int
    sampled: int
    """Images that were embedded to find the rate."""
    images_per_second: float | None
    """None where there was nothing to embed, or too little to tell."""
    seconds: float | None
    bound: str
    disk_bytes: int
    memory_bytes: int
    """Main memory of all processes, at most."""


def forecast(
    sources: Sequence[str | Path],
    store: str | Path,
    lane: Embeds,
    *,
    model: Path,
    selection: Selection = EVERYTHING,
    note: Note = lambda line: None,
) -> Forecast:
    """Raises as `embed_sources` does."""
    words = [str(source) for source in sources]
    refuse_nesting(folders_of(words))
    folder = Path(store)
    there = (
        Store.open(folder) if is_store(folder) else Store(folder, first_manifest(lane.identity, lane.width))
    )
    skips = Skips(None)
    plan = look(words, there, selection, skips, note=note)
    numbers = np.random.default_rng(0).permutation(len(plan))
    first: float | None = None
    last = 0.0
    count = at_first = batches = 0
    spent = Seconds()
    started = time.monotonic()
    for done in lane.run(plan.tasks(numbers), plan.contents.all()) if len(plan) else ():
        count += len(done)
        if not len(done):
            continue
        last = time.monotonic()
        if first is None:  # opening the model is no part of the rate
            first, at_first = last, count
        spent = spent.plus(done.seconds)
        batches += 1
        enough = batches > SAMPLE_BATCHES and count - at_first >= SAMPLE
        if enough or (last - started > SAMPLE_SECONDS and count > at_first):
            break
    rate = (count - at_first) / (last - first) if first is not None and count > at_first else None
    rows = len(plan) + plan.kept
    return Forecast(
        new=plan.new,
        changed=len(plan) - plan.new,
        gone=len(plan.gone),
        kept=plan.kept,
        skipped=skips.count,
        sampled=count,
        images_per_second=rate,
        seconds=len(plan) / rate if rate else None,
        bound=bound(spent),
        disk_bytes=len(plan) * (2 * lane.width + _ROW_BYTES)
        + (0 if is_store(folder) else sum(path.stat().st_size for path in files_to_copy(model))),
        memory_bytes=resident_peak() + lane.memory + rows * _MEMORY_ROW_BYTES,
    )

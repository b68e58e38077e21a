"""How fast an export is here: backend x precision x batch, each pair of the first two in a process of its own. No torch.

Takes an export folder; yields one `Speed` a batch size, or one `Failure` where a backend does not run a file.
"""

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simclr.errors import ConfigError, SimclrError, reason
from simclr.free_memory import resident_peak
from simclr.runtime.backends import RUNS, gpu_count
from simclr.runtime.encoder import Encoder
from simclr.runtime.model_files import FILE_OF, open_folder
from simclr.runtime.probe import read_probe

BATCHES = (1, 8, 32, 256)
HEAD = f"{'backend':<9} {'precision':<9} {'batch':>5} {'images/s':>9} {'ms':>9} {'spread':>6} {'memory MB':>9} {'probe cosine':>12} {'recall@10':>12}"
_SECONDS = 2.0
"""Each batch size is run for so long, and at least three times."""


@dataclass(frozen=True)
class Speed:
    backend: str
    precision: str
    batch: int
    images_per_second: float
    milliseconds: float
    """A call with so many images: median."""
    spread: float
    """Slowest of the middle half of the calls over the fastest, minus 1."""
    memory: int
    """Bytes that the process took at most so far, Python and its libraries among them; not those on a GPU."""
    probe_cosine: float
    """Smallest of the probe's images to fp32, measured now."""
    recall_10: float | None
    """Neighbours kept, measured at export; None where it was not."""
    provider: str

    @property
    def words(self) -> str:
        kept = "not measured" if self.recall_10 is None else f"{self.recall_10:.4f}"
        numbers = f"{self.images_per_second:>9.1f} {self.milliseconds:>9.2f} {self.spread:>6.0%} {self.memory / 1e6:>9,.0f}"
        return f"{self.backend:<9} {self.precision:<9} {self.batch:>5} {numbers} {self.probe_cosine:>12.6f} {kept:>12}"


@dataclass(frozen=True)
class Failure:
    backend: str
    precision: str
    reason: str

    @property
    def words(self) -> str:
        return f"{self.backend:<9} {self.precision:<9} {self.reason}"


def benchmark(
    path: str | Path,
    *,
    backends: Sequence[str] = (),
    precisions: Sequence[str] = (),
    batches: Sequence[int] = BATCHES,
) -> Iterator[Speed | Failure]:
    """Measure every pair that the export holds, or those named; on a machine without GPU, not those that need one.

    Raises ArtifactError where there is no export.
    """
    folder, info = open_folder(path)
    there = [file.precision for file in info.files.values()]
    for words, known in ((backends, list(RUNS)), (precisions, list(FILE_OF))):
        if unknown := [word for word in words if word not in known]:
            raise ConfigError(f"{unknown[0]!r} is unknown. Use some of: {', '.join(known)}.")
    if min(batches) > info.max_batch:
        raise ConfigError(f"--batch {min(batches)}: the largest that this export takes is {info.max_batch}.")
    tried = backends or [name for name in RUNS if name == "ort-cpu" or gpu_count()]
    for backend in tried:
        for precision in precisions or [name for name in there if name in RUNS.get(backend, ())]:
            sizes = [size for size in batches if size <= info.max_batch]
            # a fresh process: memory is its own, and what one backend loaded does not slow the next
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                try:
                    yield from pool.submit(_measure, folder, backend, precision, sizes).result()
                except SimclrError as exc:
                    yield Failure(backend, precision, str(exc))
                except BrokenProcessPool:
                    yield Failure(backend, precision, "the process was killed, perhaps for want of memory")
                except (
                    Exception
                ) as exc:  # ONNX Runtime's own classes, memory of the GPU: the other pairs are still measured
                    yield Failure(backend, precision, f"{type(exc).__name__}: {reason(exc)}")


def _measure(folder: Path, backend: str, precision: str, batches: Sequence[int]) -> list[Speed]:
    encoder = Encoder.open(folder, backend=backend, precision=precision)
    images, expected = read_probe(encoder.folder, encoder.info)
    cosine = float((encoder.encode(images) * expected).sum(1).min())
    file = encoder.info.files[FILE_OF[encoder.precision]]
    found = []
    for batch in batches:
        pixels = images[np.arange(batch) % len(images)]
        encoder(pixels)  # the first of a shape plans its memory
        taken: list[float] = []
        while sum(taken) < _SECONDS or len(taken) < 3:
            started = time.perf_counter()
            encoder(pixels)
            taken.append(time.perf_counter() - started)
        middle = statistics.median(taken)
        low, _, high = statistics.quantiles(taken, n=4)
        found.append(
            Speed(
                encoder.backend,
                encoder.precision,
                batch,
                batch / middle,
                middle * 1000,
                high / low - 1,
                resident_peak(),
                cosine,
                file.fidelity.recall_10,
                encoder.engine.provider,
            )
        )
    return found

"""How many images of a run go through the encoder at a time, and what its steps need of memory then.

Takes a Setup; alike on all processes. What a view costs is measured by memory.py.
"""

from collections.abc import Callable
from functools import partial

from simclr.errors import ConfigError
from simclr.pretrain import distributed, memory
from simclr.pretrain.companies import companies_of_a_kind
from simclr.pretrain.config import PretrainConfig
from simclr.pretrain.setup import Setup, trial


def measure_need(setup: Setup) -> memory.Need:
    """Of memory, by a step."""
    config = setup.config
    with setup.statistics.untouched():
        return memory.measure(
            setup.model, trial(setup), image_size=config.image_size, projection=config.head_out
        )


def choose_chunk(setup: Setup, *, before: PretrainConfig | None, say: Callable[[str], None]) -> int:
    """The chunk that is set, that the run has had, or that fits; says it, and what a step will need."""
    config, batch, free, need = setup.config, setup.batch_size, setup.free, setup.need
    assert need is not None
    had = setup.state.chunk if setup.state else None
    if had is not None and config.chunk in ("auto", before.chunk if before else "auto"):
        chunk = had
    elif config.chunk == "auto":
        chunk = distributed.least(memory.largest_chunk(need, free, batch_size=batch))
    else:
        chunk = min(config.chunk, batch)
    chunk = distributed.from_first(chunk)
    distributed.together(partial(_check_chunk, chunk, batch))
    companies = companies_of_a_kind(batch, chunk)
    if had is not None and had != chunk:
        say(f"chunk {had} -> {chunk}: from here on other views share batch-norm statistics")
    if chunk < batch:
        say(
            f"chunk {chunk}: {batch} images go through the encoder as {2 * companies} companies of about "
            f"{batch // companies} first or second views"
        )
    images, processes = len(distributed.share(batch)), distributed.world()
    views = 2 * images if chunk == batch else -(-batch // companies // processes)
    each = " on each process" if processes > 1 else ""
    say(
        f"memory: about {need.of(images=images, views=views) / 1e9:.2f} GB of {free / 1e9:.1f} GB free{each} (weights and "
        f"optimiser {need.fixed / 1e9:.2f}, batch {need.per_image * images / 1e9:.2f}, graph of {views} views "
        f"{need.per_view * views / 1e9:.2f})"
    )
    return chunk


def _check_chunk(chunk: int, batch: int) -> None:
    processes = distributed.world()
    if chunk < batch and processes > 1 and batch // processes < 2 * companies_of_a_kind(batch, chunk) - 1:
        raise ConfigError(
            f"chunk {chunk} is too small for {processes} processes: each needs views of every company. "
            f"Give at least --chunk {2 * processes}."
        )

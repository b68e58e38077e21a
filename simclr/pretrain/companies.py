"""Which views share batch-norm statistics when a batch goes through the encoder in chunks.

Views are numbered 0 .. 2B - 1: all first views of the batch, then all second views. A company is a set of views that go
through the encoder together and so are normalised together. It is drawn over the batch of all processes, from
(seed, step) alone, so that the number of processes does not change it.

- chunk >= B: one company of all 2B views, as in google-research/simclr.
- chunk < B: companies of at most 2 * chunk views, and of one kind: first views only, or second views only. An
  image's two views are thus never in one company, and the companies of the two kinds are drawn apart, so that
  the statistics of a company do not tell who belongs together.
"""

import numpy as np
from numpy.typing import NDArray


def companies(seed: int, step: int, *, batch_size: int, chunk: int) -> list[NDArray[np.int64]]:
    """The companies of one batch, each rising; together they hold every view once.

    Sizes differ by at most one where the chunk does not divide the batch. Rows are dealt out a stratum at a time, each company
    getting one of it, so that any run of neighbouring rows, such as one process has, is in all companies about alike.
    """
    if chunk >= batch_size:
        return [np.arange(2 * batch_size)]
    count = companies_of_a_kind(batch_size, chunk)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step, 0xC041])))
    dealt: list[NDArray[np.int64]] = []
    for first_view in (0, batch_size):
        strata = -(-batch_size // count)
        company = np.argsort(rng.random((strata, count)), axis=1).ravel()[:batch_size]
        dealt += [first_view + np.flatnonzero(company == number) for number in range(count)]
    return dealt


def companies_of_a_kind(batch_size: int, chunk: int) -> int:
    """Into how many companies the first views of a batch are dealt, and the second views likewise."""
    return -(-batch_size // (2 * chunk))


def views_here(company: NDArray[np.int64], *, images: range, batch_size: int) -> NDArray[np.int64]:
    """The part of a company that a process with these rows of the batch has, counted within its own 2 * len(images) views."""
    view, image = np.divmod(company, batch_size)
    mine = (image >= images.start) & (image < images.stop)
    here: NDArray[np.int64] = view[mine] * len(images) + image[mine] - images.start
    return here

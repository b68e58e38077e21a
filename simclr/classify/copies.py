"""Planted copies of a store's own images, and how near they and the other images come to it: by which a threshold is chosen.

Some images are read again, changed as people and web sites change them, and embedded with the encoder in the store.

Shape letters: S = images copied, M = images of a larger sample, C = kinds of copies, L = nearest others, D = width.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import blake3
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from simclr.classify.duplicates import Facts
from simclr.classify.threshold import FEWEST, NEIGHBOURS, Cut, choose
from simclr.cpus import available_cpus
from simclr.embed.index.library import unit_vectors
from simclr.embed.lookup import Lookup
from simclr.embed.recall import Exact
from simclr.embed.shards import Row, numbers
from simclr.embed.store import Store
from simclr.errors import EncoderMismatch, ImageError, SimclrError
from simclr.images import decode
from simclr.preprocess import Recipe
from simclr.runtime import Encoder

COPIED, SAMPLED = 200, 2000
"""Images that copies are made of, and those whose nearest others are looked for; the first are among the second."""
_TOGETHER = 32
"""Images that are read before their copies are embedded."""

Progress = Callable[[int, int, str], None]


def halved(image: Image.Image) -> Image.Image:
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> Image.Image:
    """As JPEG of quality 50."""
    file = BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    """The middle, with 90 % of each side."""
    width, height = image.size
    x, y = round(0.05 * width), round(0.05 * height)
    return image.crop((x, y, width - x, height - y))


def recoloured(image: Image.Image) -> Image.Image:
    """A fifth brighter and of more contrast, with a third less colour."""
    image = ImageEnhance.Brightness(image).enhance(1.2)
    image = ImageEnhance.Color(image).enhance(0.7)
    return ImageEnhance.Contrast(image).enhance(1.2)


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "rescaled": halved,
    "recompressed": recompressed,
    "mirrored": ImageOps.mirror,
    "cropped": cropped,
    "recoloured": recoloured,
}


def chosen_cut(store: Store, facts: Facts, lookup: Lookup, *, seed: int = 0, progress: Progress) -> Cut:
    """The threshold for a store's images. The same for the same store, encoder and seed.

    Raises ImageError where they cannot be read any more, ConfigError where they are too few, EncoderMismatch.
    """
    distinct = np.unique(facts.firsts)
    sample = np.random.Generator(np.random.PCG64(seed)).permutation(distinct)[:SAMPLED]
    if len(distinct) < FEWEST:  # `choose` says so, before anything is read
        return choose(np.ones((1, 1), np.float32), np.ones((len(distinct), len(distinct) - 1), np.float32))
    planted_SC = planted(store, facts.ids[sample[:COPIED]], lookup, progress=progress)
    return choose(planted_SC, nearest_others(store, facts, lookup, sample))


def planted(
    store: Store, ids: NDArray[np.int64], lookup: Lookup, *, progress: Progress
) -> NDArray[np.float32]:
    """(S, C) cosines of copies, made now, to the stored vectors of these images, less those that have changed or gone since.

    Raises ImageError, naming the first, where that is more than half of them.
    """
    encoder = Encoder.open(store.model)
    if encoder.identity != store.info.identity:
        raise EncoderMismatch(
            f"{store.model}: is encoder {encoder.identity[:8]}, but the vectors of the store were made by {store.info.identity[:8]}. "
            "Choose the threshold yourself: --threshold COSINE"
        )
    rows = _rows(store, ids)
    found: list[NDArray[np.float32]] = []
    lost: list[str] = []
    progress(0, len(ids), "")
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(ids), _TOGETHER):
            part = ids[start : start + _TOGETHER]
            made = list(pool.map(partial(_made, store, encoder.recipe), [rows[int(id)] for id in part]))
            lost += [each for each in made if isinstance(each, str)]
            kept = [place for place, each in enumerate(made) if not isinstance(each, str)]
            if kept:
                pixels = np.concatenate([each for each in made if not isinstance(each, str)])
                vectors_SCD = encoder.encode(pixels).reshape(len(kept), len(KINDS), -1)
                stored_SD = unit_vectors(lookup.vectors(part[kept]))
                found.append(np.einsum("scd,sd->sc", vectors_SCD, stored_SD))
            progress(start + len(part), len(ids), "")
    if 2 * len(lost) > len(ids):
        raise ImageError(
            f"{lost[0]}, and so it is with {len(lost):,} of {len(ids):,} images that a threshold would be chosen by. "
            "Bring the store in step with `simclr embed`, or give a threshold: --threshold 0.95"
        )
    return np.concatenate(found)


def nearest_others(
    store: Store, facts: Facts, lookup: Lookup, places_M: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(M, L) exact cosines to the nearest images of other contents, best first; each content counts once."""
    firsts = facts.ids[np.unique(facts.firsts)]
    queries_MD = unit_vectors(lookup.vectors(facts.ids[places_M]))
    exact = Exact(queries_MD, k=min(2 * NEIGHBOURS + 1, len(firsts)))
    for ids, vectors in store.blocks():
        first = np.isin(ids, firsts)
        if first.any():
            exact.show(ids[first], vectors[first])
    similarities, found = exact.neighbours
    own = found == facts.ids[places_M][:, None]
    own[~own.any(1), -1] = True  # as near as more others than were kept
    others: NDArray[np.float32] = similarities[~own].reshape(len(places_M), -1)
    return others


def _made(store: Store, recipe: Recipe, row: Row) -> NDArray[np.uint8] | str:
    """(C, size, size, 3) pixels of the copies; or why there are none."""
    try:
        data = store.read(row)
        if blake3.blake3(data).hexdigest() != row.content_hash:
            return f"{store.path(row)}: has changed since it was embedded"
        # no more pixels than half of them need
        image = decode(data, enough=lambda w, h: min(w, h, 2 * recipe.enough(w, h))).image
        return np.stack([recipe.apply(change(image)) for change in KINDS.values()])
    except SimclrError as exc:
        return f"{store.path(row)}: {str(exc).rstrip('.')}"


def _rows(store: Store, ids: NDArray[np.int64]) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for table in store.tables():
        here = np.flatnonzero(np.isin(numbers(table, "id"), ids))
        found |= {values["id"]: Row(**values) for values in table.take(here).to_pylist()}
    return found

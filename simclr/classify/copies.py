"""Planted copies of a store's own images, and how alike they and the other images look: by which a cut is chosen.

Some images are read again, changed as people and web sites change them, and embedded with the encoder in the store.

Shape letters: S = images copied, M = images of a larger sample, C = kinds of copies, K = nearest others, D = width.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from simclr.classify.cut import Cut, choose
from simclr.classify.duplicates import Facts
from simclr.classify.looking import NEAREST, looks_of
from simclr.classify.looks import all_alike, small_picture, views
from simclr.classify.near import nearest_contents
from simclr.classify.small_pictures import SmallPictures, bytes_of
from simclr.cpus import available_cpus
from simclr.embed.index.library import unit_vectors
from simclr.embed.index.neighbours import Finder
from simclr.embed.lookup import Lookup
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


def chosen_cut(
    store: Store,
    facts: Facts,
    lookup: Lookup,
    finder: Finder,
    pictures: SmallPictures,
    *,
    seed: int = 0,
    progress: Progress,
) -> Cut:
    """The cut for a store's images. The same for the same store, encoder, index and seed. Raises as `planted`."""
    seen = np.flatnonzero(pictures.seen_N)
    sample = np.random.Generator(np.random.PCG64(seed)).permutation(seen)[:SAMPLED]
    planted_SC, reached_SC = planted(store, facts, sample[:COPIED], finder, pictures, progress=progress)
    nearest_MK, further_MF = others(facts, lookup, finder, pictures, sample)
    return choose(planted_SC, reached_SC, nearest_MK, further_MF)


def planted(
    store: Store,
    facts: Facts,
    places_S: NDArray[np.int64],
    finder: Finder,
    pictures: SmallPictures,
    *,
    progress: Progress,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(S, C) how alike copies, made now, look to these images, and whether an image is among the nearest of its copy.

    Less those that cannot be read any more. Raises EncoderMismatch, ImageError if none can.
    """
    encoder = Encoder.open(store.model)
    if encoder.identity != store.info.identity:
        raise EncoderMismatch(
            f"{store.model}: is encoder {encoder.identity[:8]}, but the vectors of the store were made by {store.info.identity[:8]}. "
            "Compare vectors alone: --threshold COSINE"
        )
    rows = _rows(store, facts.ids[places_S])
    alike, reached = [np.empty((0, len(KINDS)), np.float32)], [np.empty((0, len(KINDS)), np.bool_)]
    progress(0, len(places_S), "")
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(places_S), _TOGETHER):
            part = places_S[start : start + _TOGETHER]
            made = list(
                pool.map(partial(_made, store, encoder.recipe), [rows[int(id)] for id in facts.ids[part]])
            )
            kept = [(place, *copies) for place, copies in zip(part, made, strict=True) if copies is not None]
            if kept:
                vectors = encoder.encode(np.concatenate([pixels for _, pixels, _ in kept]))
                found = nearest_contents(facts, finder, vectors, np.full(len(vectors), -1), NEAREST)
                of = np.array([place for place, _, _ in kept])
                reached.append((found.reshape(len(kept), len(KINDS), -1) == of[:, None, None]).any(2))
                alike += [
                    all_alike(views(pictures.pictures[[place]]), views(small)) for place, _, small in kept
                ]
            progress(start + len(part), len(places_S), "")
    if len(alike) == 1:
        raise ImageError(
            f"{store.folder}: none of its images can be read any more. Compare vectors alone: --threshold 0.95"
        )
    return np.concatenate(alike), np.concatenate(reached)


def others(
    facts: Facts,
    lookup: Lookup,
    finder: Finder,
    pictures: SmallPictures,
    places_M: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(M, K) and (M, F) how alike the nearest others look, and as many after them; of few images half of the others each. -1 where unseen."""
    count = min(2 * NEAREST, int(pictures.seen_N.sum()) - 1)
    found_MK = nearest_contents(
        facts, finder, unit_vectors(lookup.vectors(facts.ids[places_M])), facts.contents[places_M], count
    )
    alike_MK = looks_of(pictures, np.repeat(places_M, count), pictures, found_MK.ravel()).reshape(
        len(places_M), count
    )
    return alike_MK[:, : -(-count // 2)], alike_MK[:, -(-count // 2) :]


def _made(store: Store, recipe: Recipe, row: Row) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """(C, size, size, 3) pixels for the encoder, and small pictures, of the copies; None where the image cannot be read any more."""
    try:
        # no more pixels than half of them need
        image = decode(bytes_of(store, row), enough=lambda w, h: min(w, h, 2 * recipe.enough(w, h))).image
    except SimclrError:
        return None
    copies = [change(image) for change in KINDS.values()]
    return np.stack([recipe.apply(copy) for copy in copies]), np.stack(
        [small_picture(copy) for copy in copies]
    )


def _rows(store: Store, ids: NDArray[np.int64]) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for table in store.tables():
        here = np.flatnonzero(np.isin(numbers(table, "id"), ids))
        found |= {values["id"]: Row(**values) for values in table.take(here).to_pylist()}
    return found

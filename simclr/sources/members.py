"""What one tar, zip or Parquet file holds: the images in it, remembered until it changes."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr.cache_folder import cache_folder
from simclr.sources.cache import UNKNOWN, Note, key_of, load_arrays, remember, stamp_of
from simclr.sources.collection import Spans
from simclr.sources.names import Names
from simclr.sources.walk import has_image_suffix, unwanted


@dataclass(frozen=True)
class Members:
    """The images of one file."""

    file: str
    """Where their bytes lie: itself, or what it is unpacked to."""
    names: Names
    """Within the file."""
    offsets: NDArray[np.int64]
    spans: NDArray[np.int64]
    """Bytes that each takes in the file."""
    sizes: NDArray[np.int64]
    """Bytes of each image; more than its span where it is packed."""
    fault: str = ""
    """Where and why the rest cannot be read; empty for a whole file."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Images that cannot be read, with the reason."""


def spans_of(source: str, shorts: Sequence[str], members: Sequence[Members], *, packing: str = "") -> Spans:
    """The images of several files as one collection; `shorts` are the files' names, which images' names begin with."""
    return Spans(
        source,
        Names.of(f"{short}/{name}" for short, one in zip(shorts, members, strict=True) for name in one.names),
        tuple(one.file for one in members),
        np.repeat(np.arange(len(members), dtype=np.int32), [len(one.names) for one in members]),
        np.concatenate([one.offsets for one in members]),
        np.concatenate([one.spans for one in members]),
        packing,
    )


def is_image(member: str) -> bool:
    """Whether a member of a tar or zip file is an image by its name, and no hidden file or litter."""
    words = [word for word in member.split("/") if word not in ("", ".")]
    return bool(words) and has_image_suffix(words[-1]) and not any(map(unwanted, words))


def remembered(kind: str, version: int, file: str, look: Callable[[str], Members], *, note: Note) -> Members:
    """What `look` finds in a file, or found when the file was the same. `kind` is the cache's folder for it."""
    stamp = stamp_of(file)
    kept = cache_folder() / kind / f"{key_of(version, file, stamp)}.npz"
    arrays = load_arrays(kept) if stamp != UNKNOWN else None
    if arrays:
        names = Names.of_lines(arrays["names"].tobytes())
        spans = arrays.get("spans", arrays["sizes"])
        left_out = json.loads(str(arrays["left_out"])) if "left_out" in arrays else []
        return Members(
            file,
            names,
            arrays["offsets"],
            spans,
            arrays["sizes"],
            str(arrays["fault"]),
            tuple((name, why) for name, why in left_out),
        )
    found = look(file)
    if stamp != UNKNOWN:
        arrays = {
            "names": np.frombuffer(found.names.blob, np.uint8),
            "offsets": found.offsets,
            "sizes": found.sizes,
            "fault": np.array(found.fault),
        }
        packed: dict[str, NDArray[Any]] = {
            "spans": found.spans,
            "left_out": np.array(json.dumps(found.left_out)),
        }
        remember(kept, arrays | packed, note=note)
    return found

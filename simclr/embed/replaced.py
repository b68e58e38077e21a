"""What a store no longer lists: put away, so that readers finish what they began, and removed a while later.

Takes a folder and its manifest; touches no file that the manifest lists.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from simclr.artifacts import StoreInfo
from simclr.embed import shards
from simclr.embed.shards import METADATA, REPLACED, SPARE, VECTORS
from simclr.embed.store import MANIFEST_FILE

REPLACED_SECONDS = 600.0
"""How long what was replaced stays readable."""
_REPLACED_BYTES = 256 << 20
"""What they may take in any case; else as much as the store's vectors."""


def put_away(folder: Path, info: StoreInfo) -> None:
    """Move the files of shards that are no more to `replaced/`, and remove those that have been there long."""
    for path in unlisted(folder, info, VECTORS, METADATA):
        os.utime(path)
        path.rename(shards.replaced_path(path))
    for path in unlisted(folder, info, SPARE):
        path.unlink()
    forget(folder, info)


def forget(folder: Path, info: StoreInfo) -> None:
    """The oldest first, also where they take more room than the store itself."""
    stats = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in _inside(folder / REPLACED))
    total = sum(size for _, size, _ in stats)
    room = max(_REPLACED_BYTES, 2 * info.width * sum(shard.rows for shard in info.shards))
    for changed, size, path in stats:
        if changed < time.time() - REPLACED_SECONDS or total > room:
            path.unlink()
            total -= size


def unlisted(folder: Path, info: StoreInfo, *folders: str) -> list[Path]:
    """What lies in these folders and is not the manifest's."""
    listed = {path for shard in info.shards for path, _ in shards.files_of(folder, shard)}
    listed |= {shards.spare_path(folder, shard.number) for shard in info.shards}
    listed |= {folder / SPARE / MANIFEST_FILE}
    return [path for name in folders for path in _inside(folder / name) if path not in listed]


def _inside(folder: Path) -> Iterator[Path]:
    """Files: a folder in there is somebody else's, such as a NAS box's."""
    return (path for path in sorted(folder.iterdir()) if not path.is_dir()) if folder.is_dir() else iter(())

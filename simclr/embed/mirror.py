"""A store here <-> its copy behind a URL, such as s3://bucket/out.store: only what the other side lacks goes over. Embeds nothing.

The copy has the files that readers need, in the store's own layout; its manifest is replaced last, so that a reader has the old or the
new store, and what a stopped copying has brought over is found by the next one. One side follows the other: a copy that has gone another
way, or is ahead, is refused.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from simclr.artifacts import ShardInfo, StoreInfo, file_sha256, write_atomically
from simclr.embed import shards
from simclr.embed.shards import METADATA, VECTORS
from simclr.embed.store import MANIFEST_FILE, MODEL_FOLDER, SKIPPED_FILE, Store, is_store
from simclr.embed.writer import StoreWriter, copy, locked
from simclr.errors import ArtifactError, ConfigError, ImageError
from simclr.sources import remote

_AT_ONCE = 4
"""Files on their way at the same time."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Copied:
    shards: int
    """That the other side lacked."""
    size: int
    """Bytes of these."""
    rows: int
    """Of the whole store."""


def push(folder: Path, url: str, *, progress: Progress = lambda *_: None) -> Copied:
    """Bring the copy at `url` in step with a store; a writer may be at work on it meanwhile. Files of shards that are no more are removed there.

    Raises ConfigError (no URL), ArtifactError (no store, a shard is damaged, the copy is another store's or ahead, the server does not answer).
    """
    store, url = Store.open(folder), _address(url)
    with _server():
        there = _manifest(url)
        fresh = _lacking(store.info, there, f"{url}", f"{folder}")

        def send(shard: ShardInfo) -> int:
            shards.verify_shard(folder, shard)
            paths = [shards.find(path) for path, _ in shards.files_of(folder, shard)]
            for path in paths:
                remote.send(path, f"{url}/{_within(path)}")
            return sum(path.stat().st_size for path in paths)

        size = _each(send, fresh, progress)
        if there is None:
            for path in sorted(store.model.iterdir()):
                remote.send(path, f"{url}/{MODEL_FOLDER}/{path.name}")
        if (folder / SKIPPED_FILE).exists():
            remote.send(folder / SKIPPED_FILE, f"{url}/{SKIPPED_FILE}")
        with tempfile.TemporaryDirectory() as own:  # the store's own may be that of a later commit
            store.info.save(Path(own) / MANIFEST_FILE)
            remote.send(Path(own) / MANIFEST_FILE, f"{url}/{MANIFEST_FILE}")
        listed = {path.name for shard in store.info.shards for path, _ in shards.files_of(folder, shard)}
        for where in (VECTORS, METADATA):
            for entry in remote.entries(f"{url}/{where}"):
                if entry.name not in listed:
                    remote.remove(f"{url}/{where}/{entry.name}")
    return Copied(len(fresh), size, len(store))


def pull(url: str, folder: Path, *, progress: Progress = lambda *_: None) -> Copied:
    """Make the store at `folder`, or bring it in step with the copy at `url`; each file is checked against its SHA-256.

    Raises ConfigError (no URL), ArtifactError (no store there, another one or a later one here, a file is damaged, the server does not answer).
    """
    url = _address(url)
    with _server(), locked(folder):
        there = _manifest(url)
        if there is None:
            raise ArtifactError(f"{url}: no store there. Bring one there with: simclr store push STORE {url}")
        here = Store.open(folder).info if is_store(folder) else None
        fresh = _lacking(there, here, f"{folder}", url)
        writer = StoreWriter(folder, there)
        writer.make_folders()

        def fetch(shard: ShardInfo) -> int:
            files = shards.files_of(folder, shard)
            for path, sha256 in files:
                if not path.exists() or file_sha256(path) != sha256:  # of one that was stopped
                    _fetch(f"{url}/{_within(path)}", path, sha256)
            copy(shards.metadata_path(folder, shard.number), shards.spare_path(folder, shard.number))
            return sum(path.stat().st_size for path, _ in files)

        size = _each(fetch, fresh, progress)
        if here is None:
            for entry in remote.entries(f"{url}/{MODEL_FOLDER}"):
                _fetch(f"{url}/{MODEL_FOLDER}/{entry.name}", folder / MODEL_FOLDER / entry.name)
        if remote.exists(f"{url}/{SKIPPED_FILE}"):
            _fetch(f"{url}/{SKIPPED_FILE}", folder / SKIPPED_FILE)
        writer.publish(there)
    return Copied(len(fresh), size, sum(shard.rows for shard in there.shards))


def _address(url: str) -> str:
    if not remote.is_url(url):
        raise ConfigError(f"{url}: not a URL. Give one such as s3://bucket/out.store.")
    return url.rstrip("/")


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """What it does not answer is no matter of images."""
    try:
        yield
    except ImageError as exc:
        raise ArtifactError(f"{exc} What was copied is kept: the same command goes on.") from exc


def _manifest(url: str) -> StoreInfo | None:
    """Of the copy; None where there is none."""
    if not remote.exists(f"{url}/{MANIFEST_FILE}"):
        return None
    with tempfile.TemporaryDirectory() as own:
        _fetch(f"{url}/{MANIFEST_FILE}", Path(own) / MANIFEST_FILE)
        return StoreInfo.load(Path(own) / MANIFEST_FILE)


def _lacking(
    leader: StoreInfo, follower: StoreInfo | None, follower_name: str, leader_name: str
) -> Sequence[ShardInfo]:
    """Shards that the follower does not have yet. Raises ArtifactError where it does not follow."""
    if follower is None:
        return leader.shards
    if follower.uid != leader.uid:
        raise ArtifactError(f"{follower_name}: holds another store than {leader_name}. Give another place.")
    numbers = {shard.number: shard for shard in leader.shards}
    parted = any(numbers.get(shard.number, shard) != shard for shard in follower.shards)
    if (
        parted
        or follower.generation > leader.generation
        or (follower.generation == leader.generation and follower != leader)
    ):
        raise ArtifactError(
            f"{follower_name}: has changes that {leader_name} has not. Copy it the other way, or to another place."
        )
    known = set(follower.shards)
    return [shard for shard in leader.shards if shard not in known]


def _each(task: Callable[[ShardInfo], int], todo: Sequence[ShardInfo], progress: Progress) -> int:
    size, done, total = 0, 0, sum(shard.rows for shard in todo)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for shard, taken in zip(todo, pool.map(task, todo), strict=True):
                size, done = size + taken, done + shard.rows
                progress(done, total, "")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return size


def _fetch(url: str, path: Path, sha256: str = "") -> None:
    def write(temporary: Path) -> None:
        remote.fetch(url, temporary)
        if sha256 and file_sha256(temporary) != sha256:
            raise ArtifactError(
                f"{url}: damaged, its SHA-256 is not the one in the manifest. Push the store again, or wait for a push that is at work."
            )

    write_atomically(path, write)


def _within(path: Path) -> str:
    """Of a shard's file, also of one that was moved to `replaced/`."""
    return f"{VECTORS if path.suffix == '.npy' else METADATA}/{path.name}"

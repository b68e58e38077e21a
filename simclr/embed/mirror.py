"""A store here <-> its copy behind a URL, such as s3://bucket/out.store: only what the other side lacks goes over. Embeds nothing.

The copy has the files that readers need, in the store's own layout. Its manifest is replaced last, and what that one no longer lists
stays until the next push, so that a reader has the old store or the new one.

One side follows the other. `mirrored.json` in a store says which manifest both had last; where the side that is to be changed has
another one by now, it has changes of its own, and copying is refused.
"""

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from simclr.artifacts import ModelInfo, ShardInfo, StoreInfo, file_sha256, write_atomically
from simclr.embed import shards
from simclr.embed.lock import check_usable, locked
from simclr.embed.shards import METADATA, VECTORS
from simclr.embed.store import MANIFEST_FILE, MODEL_FOLDER, SKIPPED_FILE, Store, is_store
from simclr.embed.writer import StoreWriter, copy, files_to_copy
from simclr.errors import ArtifactError, ConfigError, ImageError
from simclr.runtime.model_files import PROBE_FILE
from simclr.sources import remote

RECORD_FILE = "mirrored.json"
_LOCK = ".push.lock"
_AT_ONCE = 4
"""Files on their way at the same time."""
_OURS = re.compile(r"(?:img_emb/img_emb|metadata/metadata)_(\d{5,})\.(?:npy|parquet)")
"""Files of a shard, with its number."""

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
    """Bring the copy at `url` in step with a store; what is missing there, or of another size, is sent again.

    A writer may be at work on the store meanwhile; what it has replaced for ten minutes is gone, and a push that wanted it has to be
    started again. Raises ConfigError (no URL), ArtifactError (no store, a shard is damaged, the copy is another store's or has changes of
    its own, another push is at work, the server does not answer).
    """
    store, url = Store.open(folder), _address(url)
    with _server(), _one_push(folder):
        there, names = _manifest(url), remote.sizes(url)
        if there is None and names and url not in _record(folder):
            raise ArtifactError(f"{url}: has files that are no store of ours. Give another place.")
        if there is not None:
            _check(there, store.info, folder, url, changed=url)
        known = set() if there is None else set(there.shards)
        todo = [
            shard for shard in store.info.shards if shard not in known or not _whole(folder, shard, names)
        ]
        size = _each(lambda shard: _send(folder, shard, url), todo, progress)
        for path in files_to_copy(store.model):
            if there is None or names.get(f"{MODEL_FOLDER}/{path.name}") != path.stat().st_size:
                remote.send(path, f"{url}/{MODEL_FOLDER}/{path.name}")
        if (folder / SKIPPED_FILE).exists():
            remote.send(folder / SKIPPED_FILE, f"{url}/{SKIPPED_FILE}")
        if _manifest(url) != there:
            raise ArtifactError(f"{url}: another push has changed it meanwhile. Start again.")
        _remember(
            folder, url, *([] if there is None else [there]), store.info
        )  # whichever a kill leaves there
        with tempfile.TemporaryDirectory() as own:  # the store's own may be that of a later commit
            store.info.save(Path(own) / MANIFEST_FILE)
            remote.send(Path(own) / MANIFEST_FILE, f"{url}/{MANIFEST_FILE}")
        _remember(folder, url, store.info)
        listed = {
            _within(path)
            for shard in (*store.info.shards, *known)
            for path, _ in shards.files_of(folder, shard)
        }
        for name in names.keys() - listed:
            match = _OURS.fullmatch(name)
            if match and int(match[1]) < store.info.next_shard:
                remote.remove(f"{url}/{name}")
    return Copied(len(todo), size, len(store))


def pull(url: str, folder: Path, *, progress: Progress = lambda *_: None) -> Copied:
    """Make the store at `folder`, or bring it in step with the copy at `url`; files of shards are checked against their SHA-256.

    Raises ConfigError (no URL), ArtifactError (no store there; here is something else, another store, or one with changes of its own; a file is
    damaged, the server does not answer).
    """
    url = _address(url)
    check_usable(folder)
    with _server(), locked(folder):
        there = _manifest(url)
        if there is None:
            raise ArtifactError(f"{url}: no store there. Bring one there with: simclr store push STORE {url}")
        here = Store.open(folder).info if is_store(folder) else None
        if here is not None:
            _check(here, there, folder, url, changed=str(folder))
        writer = StoreWriter(folder, there)
        writer.make_folders()
        if here is None:
            _fetch_model(f"{url}/{MODEL_FOLDER}", folder / MODEL_FOLDER)

        def fetch(shard: ShardInfo) -> int:
            files = shards.files_of(folder, shard)
            for path, sha256 in files:
                if not path.exists() or file_sha256(path) != sha256:  # of a pull that was stopped
                    _fetch(f"{url}/{_within(path)}", path, sha256)
            copy(shards.metadata_path(folder, shard.number), shards.spare_path(folder, shard.number))
            return sum(path.stat().st_size for path, _ in files)

        known = set() if here is None else set(here.shards)
        todo = [shard for shard in there.shards if shard not in known]
        size = _each(fetch, todo, progress)
        writer.publish(there)
        _remember(folder, url, there)
        if remote.exists(f"{url}/{SKIPPED_FILE}"):
            _fetch(f"{url}/{SKIPPED_FILE}", folder / SKIPPED_FILE)
    return Copied(len(todo), size, sum(shard.rows for shard in there.shards))


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
        raise ArtifactError(f"{exc} Nothing was changed that readers see.") from exc


@contextlib.contextmanager
def _one_push(folder: Path) -> Iterator[None]:
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ArtifactError(f"{folder}: another push is at work. Wait for it, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


# ---- which side follows


def _check(follower: StoreInfo, leader: StoreInfo, folder: Path, url: str, *, changed: str) -> None:
    """Raises ArtifactError where the follower is another store, or not the one that both had last."""
    if follower.uid != leader.uid:
        raise ArtifactError(f"{changed}: holds another store than the one to be copied. Give another place.")
    if follower != leader and _digest(follower) not in _record(folder).get(url, []):
        raise ArtifactError(
            f"{changed}: has changed since {folder} and {url} were last the same, and its changes would be lost. Copy it the other way, or to another place."
        )


def _record(folder: Path) -> dict[str, list[str]]:
    """URL -> digests of the manifests that may be there."""
    try:
        found: dict[str, list[str]] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # without it, copying is refused, and nothing lost
        return {}
    return found


def _remember(folder: Path, url: str, *manifests: StoreInfo) -> None:
    record = _record(folder) | {url: [_digest(manifest) for manifest in manifests]}
    text = json.dumps(record, indent=1)
    write_atomically(folder / RECORD_FILE, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _digest(manifest: StoreInfo) -> str:
    return hashlib.sha256(json.dumps(asdict(manifest), sort_keys=True).encode()).hexdigest()


# ---- what goes over


def _manifest(url: str) -> StoreInfo | None:
    """Of the copy; None where there is none."""
    if not remote.exists(f"{url}/{MANIFEST_FILE}"):
        return None
    with tempfile.TemporaryDirectory() as own:
        _fetch(f"{url}/{MANIFEST_FILE}", Path(own) / MANIFEST_FILE)
        try:
            return StoreInfo.load(Path(own) / MANIFEST_FILE)
        except ArtifactError as exc:
            raise ArtifactError(
                f"{url}/{MANIFEST_FILE}: damaged. Delete it there, and push the store again."
            ) from exc


def _whole(folder: Path, shard: ShardInfo, sizes: dict[str, int]) -> bool:
    return all(
        sizes.get(_within(path)) == shards.find(path).stat().st_size
        for path, _ in shards.files_of(folder, shard)
    )


def _send(folder: Path, shard: ShardInfo, url: str) -> int:
    """Bytes sent. A commit may move a file to `replaced/` between a look and the sending."""
    shards.verify_shard(folder, shard)
    size = 0
    for path, _ in shards.files_of(folder, shard):
        for last in (False, True):
            found = shards.find(path)
            try:
                taken = found.stat().st_size
                remote.send(found, f"{url}/{_within(path)}")
            except (OSError, ImageError):
                if last or found.exists():
                    raise
            else:
                size += taken
                break
    return size


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


def _fetch_model(url: str, folder: Path) -> None:
    """By the names in its own manifest, so that the server need not list anything."""
    _fetch(f"{url}/{MANIFEST_FILE}", folder / MANIFEST_FILE)
    for name in (*ModelInfo.load(folder / MANIFEST_FILE).files, PROBE_FILE):
        _fetch(f"{url}/{name}", folder / name)


def _fetch(url: str, path: Path, sha256: str = "") -> None:
    def write(temporary: Path) -> None:
        remote.fetch(url, temporary)
        if sha256 and file_sha256(temporary) != sha256:
            raise ArtifactError(
                f"{url}: damaged, its SHA-256 is not the one in the manifest. Delete it there, and push the store again."
            )

    write_atomically(path, write)


def _within(path: Path) -> str:
    """Of a shard's file, its path in the store."""
    return f"{VECTORS if path.suffix == '.npy' else METADATA}/{path.name}"

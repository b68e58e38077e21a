"""Find what is damaged in a store, and mend it: from second copies where there are some, else by embedding just that shard.

Everything is read in full and compared with the manifest, which carries its own seal and has a copy in `spare/`.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simclr.artifacts import ModelInfo, ShardInfo, StoreInfo, file_sha256
from simclr.embed import shards
from simclr.embed.lock import is_being_written, locked
from simclr.embed.shards import METADATA, SPARE, VECTORS, Row
from simclr.embed.store import MANIFEST_FILE, MODEL_FOLDER, Store, is_store
from simclr.embed.tasks import Embeds, Failed, Task
from simclr.embed.writer import StoreWriter, copy
from simclr.errors import ArtifactError, ImageError
from simclr.runtime.model_files import MANIFEST_FILE as MODEL_MANIFEST
from simclr.runtime.model_files import PROBE_FILE
from simclr.sources import locate


@dataclass(frozen=True)
class Fault:
    path: Path
    what: str

    @property
    def words(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Mended:
    words: str
    lost: int = 0
    """Rows that are gone from the store with it."""


def check_store(path: str | Path) -> Iterator[Fault]:
    """Every fault of a store, its manifest's first.

    Raises ArtifactError where no store is, or none can be made out, or one that is being written.
    """
    folder = Path(path)
    info = _manifest(folder)
    if is_being_written(folder):
        raise ArtifactError(f"{folder}: `simclr embed` is writing to it. Check it when that has ended.")
    for manifest in _manifests(folder):
        if what := _unreadable(manifest):
            yield Fault(manifest, what)
    for shard in info.shards:
        for where, sha256 in [
            *shards.files_of(folder, shard),
            (shards.spare_path(folder, shard.number), shard.metadata_sha256),
        ]:
            if what := _differs(where, sha256):
                yield Fault(where, what)
    listed = {where for shard in info.shards for where, _ in shards.files_of(folder, shard)}
    for name in (VECTORS, METADATA):
        for where in sorted((folder / name).glob("*")):
            if where not in listed:
                yield Fault(where, "not in the manifest; a killed run left it, and other tools would read it")
    if what := _foreign_model(folder / MODEL_FOLDER, info):
        yield Fault(folder / MODEL_FOLDER / MODEL_MANIFEST, what)
        return
    for where, sha256 in _model_files(folder / MODEL_FOLDER):
        if what := _differs(where, sha256):
            yield Fault(where, what)


def repair_store(
    path: str | Path, *, open_lane: Callable[[Path], Embeds], model: Path | None = None
) -> Iterator[Mended]:
    """Mend what `check_store` finds; gives a line for each thing done.

    `open_lane` makes what embeds from an export folder, asked for only where a shard has to be embedded again. `model`:
    an export folder of the same encoder, to restore the store's copy from. Ids stay with their images; a shard whose images
    are out of reach stays as it is. Raises ArtifactError (another process is writing; a model cannot be restored).
    """
    folder = Path(path)
    _manifest(folder)
    with locked(folder):
        info = _manifest(folder)
        (folder / SPARE).mkdir(exist_ok=True)
        for manifest in _manifests(folder):
            if _unreadable(manifest):
                info.save(manifest)
                yield Mended(f"{manifest}: restored from its copy")
        writer = StoreWriter(folder, info)
        for shard in info.shards:
            if _metadata_is_lost(folder, shard):
                writer.replace_shard(shard, [], np.empty((0, info.width), np.float32))
                yield Mended(
                    f"shard {shard.number}: both copies of its metadata are damaged, so nobody knows which images it held; its "
                    f"{shard.rows:,} rows are dropped. Run the `simclr embed` command that made them: it embeds what is missing",
                    lost=shard.rows,
                )
                continue
            yield from _mend_metadata(folder, shard)
        yield from _mend_model(folder, info, model)
        lane: Embeds | None = None
        for shard in writer.info.shards:
            if _differs(shards.vectors_path(folder, shard.number), shard.vectors_sha256):
                lane = lane or open_lane(folder / MODEL_FOLDER)
                yield from _embed_again(writer, shard, lane)
        writer.clean()


def _manifest(folder: Path) -> StoreInfo:
    """The manifest, or its copy where it is damaged."""
    if not is_store(folder):
        return Store.open(folder).info
    try:
        return StoreInfo.load(folder / MANIFEST_FILE)
    except ArtifactError as first:
        try:
            return StoreInfo.load(folder / SPARE / MANIFEST_FILE)
        except ArtifactError:
            raise ArtifactError(
                f"{first} Its copy in {SPARE}/ is damaged, too: delete the store and embed again."
            ) from first


def _manifests(folder: Path) -> tuple[Path, Path]:
    return folder / MANIFEST_FILE, folder / SPARE / MANIFEST_FILE


def _unreadable(manifest: Path) -> str:
    """Why; empty where it is whole. A kill may leave the copy behind by one commit, which does no harm."""
    try:
        StoreInfo.load(manifest)
    except ArtifactError as exc:
        return str(exc).removeprefix(f"{manifest}: ").rstrip(".")
    return ""


def _differs(path: Path, sha256: str) -> str:
    """Why a file is not the one that was written; empty where it is."""
    if not path.exists():
        return "missing"
    try:
        found = file_sha256(path)
    except ArtifactError as exc:  # the system says so: a bad sector
        return str(exc).removeprefix(f"{path}: ").rstrip(".")
    return "" if found == sha256 else "damaged, its SHA-256 is not the one in the manifest"


def _model_files(model: Path) -> list[tuple[Path, str]]:
    info = ModelInfo.load(model / MODEL_MANIFEST)
    files = [(model / name, file.sha256) for name, file in info.files.items()]
    return [*files, (model / PROBE_FILE, info.probe_sha256)]


def _foreign_model(model: Path, info: StoreInfo) -> str:
    """Why the manifest of a model is not that of the store's encoder; empty where it is."""
    try:
        found = ModelInfo.load(model / MODEL_MANIFEST).encoder.identity
    except ArtifactError as exc:
        return str(exc).removeprefix(f"{model / MODEL_MANIFEST}: ").rstrip(".")
    return "" if found == info.identity else "describes another encoder than the one that made the vectors"


def _mend_model(folder: Path, info: StoreInfo, model: Path | None) -> Iterator[Mended]:
    manifest = folder / MODEL_FOLDER / MODEL_MANIFEST
    if what := _foreign_model(manifest.parent, info):
        if model is None or _foreign_model(model, info):
            raise ArtifactError(
                f"{manifest}: {what}. Give an export folder of the store's encoder with --model."
            )
        copy(model / MODEL_MANIFEST, manifest)
        yield Mended(f"{manifest}: copied from {model}")
    for where, sha256 in _model_files(folder / MODEL_FOLDER):
        if _differs(where, sha256):
            if model is None or _differs(model / where.name, sha256):
                raise ArtifactError(
                    f"{where}: {_differs(where, sha256)}. Give the export folder that it is a copy of with --model."
                )
            copy(model / where.name, where)
            yield Mended(f"{where}: copied from {model}")


def _copies(folder: Path, shard: ShardInfo) -> tuple[Path, Path]:
    return shards.metadata_path(folder, shard.number), shards.spare_path(folder, shard.number)


def _metadata_is_lost(folder: Path, shard: ShardInfo) -> bool:
    return all(_differs(path, shard.metadata_sha256) for path in _copies(folder, shard))


def _mend_metadata(folder: Path, shard: ShardInfo) -> Iterator[Mended]:
    first, second = _copies(folder, shard)
    for path, other in ((first, second), (second, first)):
        if _differs(path, shard.metadata_sha256):
            copy(other, path)
            yield Mended(f"{path}: restored from its copy")


def _embed_again(writer: StoreWriter, shard: ShardInfo, lane: Embeds) -> Iterator[Mended]:
    """New vectors for the images of a shard, under the ids that they have."""
    store = writer.store
    rows = [Row(**values) for values in shards.read_metadata(writer.folder, shard).to_pylist()]
    tasks: list[Task] = []
    failures: dict[int, Failed] = {}
    for number, row in enumerate(rows):
        source = store.info.sources[row.source]
        try:
            tasks.append(Task(number, locate(source.kind, source.root, row.image_path), fresh=True))
        except ImageError as exc:
            failures[number] = Failed(number, str(exc))
    made: list[Row] = []
    vectors = [np.empty((0, writer.info.width), np.float32)]
    for done in lane.run(tasks, np.empty(0, np.uint64)):
        for image in done.images:
            row = rows[image.number]
            if image.digest.hex() != row.content_hash:  # the next embed looks into it again
                row = dataclasses.replace(
                    row,
                    content_hash=image.digest.hex(),
                    size=image.size,
                    mtime_ns=-1,
                    width=image.width,
                    height=image.height,
                )
            made.append(row)
        if done.images:
            vectors.append(done.vectors)
        failures |= {failed.number: failed for failed in done.failed}
    away = [
        number for number, failed in failures.items() if not _is_surely_gone(store.path(rows[number]), failed)
    ]
    if away or (failures and not made):
        yield Mended(
            f"shard {shard.number}: {len(failures):,} of its {len(rows):,} images are out of reach, such as {store.path(rows[min(failures)])} "
            f"({failures[min(failures)].reason}); it stays as it is. Bring them back and repair again"
        )
        return
    writer.replace_shard(shard, made, np.concatenate(vectors))
    yield Mended(
        f"{shards.vectors_path(writer.folder, shard.number)}: embedded its {len(made):,} images again"
    )
    for number, failed in sorted(failures.items()):
        yield Mended(f"{store.path(rows[number])}: {failed.reason}; its row is dropped", lost=1)


def _is_surely_gone(path: str, failed: Failed) -> bool:
    """Whether an image that cannot be embedded is no more, and not on a disk that is away."""
    folder = os.path.dirname(path)
    return failed.is_no_image or (
        os.path.isdir(folder) and not os.path.exists(path) and bool(os.listdir(folder))
    )

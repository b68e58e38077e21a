"""Sources behind URLs: fsspec's memory file system, and a web server on this machine."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tar import read_all, write_tar

from simclr.errors import ConfigError, ImageError, MissingExtra
from simclr.sources import open_collection, remote


@pytest.fixture
def shards(tmp_path: Path, blobs: dict[str, bytes]) -> Path:
    folder = tmp_path / "served" / "shards"
    for shard in range(3):
        write_tar(folder / f"{shard}.tar", dict(list(blobs.items())[shard * 10 : shard * 10 + 10]))
    return folder


@pytest.fixture
def bucket(shards: Path) -> Iterator[str]:
    """The shards in fsspec's memory."""
    memory = fsspec.filesystem("memory", skip_instance_cache=True)
    for path in shards.iterdir():
        memory.pipe_file(f"/bucket/shards/{path.name}", path.read_bytes())
    yield "memory://bucket/shards"
    memory.rm("/bucket", recursive=True)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def web(shards: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(shards.parent)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("form", ["{0..2}.tar", "*.tar", ""])
def test_shards_in_a_bucket_are_the_shards_of_a_folder(bucket: str, shards: Path, form: str) -> None:
    local = open_collection(str(shards / "*.tar"), note=pytest.fail)
    far = open_collection(f"{bucket}/{form}", note=lambda line: None)
    assert read_all(far) == read_all(local)
    assert far.sha256 == local.sha256
    assert far.name == f"{bucket}/{form}"


def test_shards_on_a_web_server_are_the_shards_of_a_folder(web: str, shards: Path) -> None:
    far = open_collection(f"{web}/shards/{{0..2}}.tar", note=lambda line: None)
    assert read_all(far) == read_all(open_collection(str(shards / "*.tar"), note=pytest.fail))


def test_shards_are_copied_once_and_a_changed_one_again(bucket: str, shards: Path, own_cache: Path) -> None:
    notes: list[str] = []
    open_collection(f"{bucket}/*.tar", note=notes.append)
    size = sum(path.stat().st_size for path in shards.iterdir())
    assert notes == [f"copying 3 of 3 files ({size / 1e9:.2f} GB) to {own_cache}, once"]
    open_collection(f"{bucket}/*.tar", note=pytest.fail)
    changed = write_tar(shards / "1.tar", {"new.png": b"new"})
    fsspec.filesystem("memory").pipe_file("/bucket/shards/1.tar", changed.read_bytes())
    notes.clear()
    assert open_collection(f"{bucket}/*.tar", note=notes.append).names[10] == "1.tar/new.png"
    assert notes[0].startswith("copying 1 of 3 files")


def test_a_stopped_copying_goes_on_with_what_is_there(
    bucket: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = remote._copy

    def fails(url: str, path: Path, size: int | None) -> None:
        if url.endswith("2.tar"):
            raise KeyboardInterrupt
        real(url, path, size)

    monkeypatch.setattr(remote, "_copy", fails)
    with pytest.raises(KeyboardInterrupt):
        open_collection(f"{bucket}/*.tar", note=lambda line: None)
    monkeypatch.setattr(remote, "_copy", real)
    notes: list[str] = []
    open_collection(f"{bucket}/*.tar", note=notes.append)
    assert notes[0].startswith("copying 1 of 3 files")
    assert not list(own_cache.rglob("*.tmp"))


def test_a_copy_that_came_short_is_no_copy(
    bucket: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fsspec.implementations.memory.MemoryFileSystem,
        "get_file",
        lambda self, origin, path: Path(path).write_bytes(b"half"),
    )
    with pytest.raises(
        ImageError, match=r"^memory:/+bucket/shards/\d.tar: 4 of [\d,]+ bytes came. Start again.$"
    ):
        open_collection(f"{bucket}/*.tar", note=lambda line: None)
    assert not [path for path in (own_cache / "copies").rglob("*") if path.is_file()]


def test_parquet_behind_a_url_is_unpacked_from_its_copy(bucket: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x", b"yy"]}), tmp_path / "a.parquet")
    fsspec.filesystem("memory").pipe_file("/bucket/p/a.parquet", (tmp_path / "a.parquet").read_bytes())
    collection = open_collection("memory://bucket/p/a.parquet", note=lambda line: None)
    assert read_all(collection) == {"a.parquet/0": b"x", "a.parquet/1": b"yy"}


@pytest.mark.parametrize("absolute", [False, True])
def test_a_list_names_files_behind_urls(web: str, shards: Path, absolute: bool) -> None:
    (shards / "a.jpg").write_bytes(b"a")
    start = f"{web}/shards/" if absolute else ""
    (shards / "list.txt").write_text(f"{start}a.jpg\n{start}gone.jpg\n")
    collection = open_collection(f"{web}/shards/list.txt", note=lambda line: None)
    assert list(collection.names) == [f"{start}a.jpg", f"{start}gone.jpg"]
    assert collection.read(0) == b"a"
    with pytest.raises(ImageError, match=r"^cannot be read: .*gone.jpg: no such file"):
        collection.read(1)


def test_a_file_url_is_a_local_path(shards: Path) -> None:
    local = open_collection(str(shards / "*.tar"), note=pytest.fail)
    assert open_collection(f"file://{shards}/*.tar", note=pytest.fail).sha256 == local.sha256
    assert len(open_collection(f"file://{shards}", note=lambda line: None).names) == 30


def test_what_is_not_there_is_an_error_that_names_it(bucket: str, web: str) -> None:
    for url in (f"{bucket}/9.tar", f"{web}/9.tar"):
        with pytest.raises(ImageError) as error:
            open_collection(url, note=pytest.fail)
        assert str(error.value) == f"{url}: no such file. Mend its name."
    with pytest.raises(ImageError, match=r"^memory:/+bucket/shards/x\*.tar: no file matches. Give"):
        open_collection(f"{bucket}/x*.tar", note=pytest.fail)


def test_a_server_that_does_not_answer_is_an_error_of_one_line() -> None:
    with pytest.raises(ImageError, match=r"^http://127.0.0.1:9/a.tar: cannot be reached \([^\n]*\).$"):
        open_collection("http://127.0.0.1:9/a.tar", note=pytest.fail)


def test_training_refuses_a_remote_folder_of_images(bucket: str) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/photos/a.jpg", b"a")
    with pytest.raises(ConfigError, match=r"neither tar, zip, Parquet nor a list, .* copy it here first.$"):
        open_collection("memory://bucket/photos", note=pytest.fail)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^nonsense://: no such protocol \("):
        open_collection("nonsense://a.tar", note=pytest.fail)


def test_a_protocol_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str, **options: object) -> object:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(
        MissingExtra, match=r"^s3fs is not installed. Run: pip install 'simclr-toolkit\[s3\]'$"
    ):
        open_collection("s3://bucket/a.tar", note=pytest.fail)

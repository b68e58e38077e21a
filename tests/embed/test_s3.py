"""Images in an S3 bucket: more than a page of a listing, a server that is busy, one that is started anew, and what may be wrong with it."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import run

from simclr.embed import Store
from simclr.sources import remote

pytest.importorskip("moto")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.filterwarnings("ignore")  # s3fs' own, of sessions at the end

SMALL = 24


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    def __init__(self, folder: Path, port: int, *, fail_every: int = 0) -> None:
        self.folder, self.port = folder, port
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("s3_server.py"), str(port), folder, str(fail_every)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout.readline().strip() == "ready"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """24 images in two folders, and a file that is none."""
    folder = tmp_path_factory.mktemp("s3") / "bucket"
    rng = np.random.default_rng(0)
    for i in range(SMALL):
        path = folder / "holiday" / ("deep" if i % 2 else "") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    (folder / "holiday" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(autouse=True)
def credentials(monkeypatch) -> Iterator[None]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    remote._file_system.cache_clear()
    yield
    remote._file_system.cache_clear()


@pytest.fixture
def serving(monkeypatch) -> Iterator:
    servers = []

    def serving(folder: Path, port: int | None = None, **options) -> Server:
        servers.append(Server(folder, port or free_port(), **options))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{servers[-1].port}")
        return servers[-1]

    yield serving
    for server in servers:
        server.close()


def paths(store: Path) -> list[str]:
    return sorted(row.image_path for row in Store.open(store).rows())


def expected(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_a_bucket_is_embedded_like_a_folder_and_stays_in_step(serving, pictures, model, tmp_path):
    serving(pictures)
    words = ("embed", "s3://photos/holiday", "--store", tmp_path / "o.store", "--model", model)
    code, out, _ = run(*words)
    assert code == 0 and "added             24" in out and "skipped            1" in out
    assert paths(tmp_path / "o.store") == expected(pictures / "holiday")
    assert run("embed", pictures / "holiday", "--store", tmp_path / "here.store", "--model", model)[0] == 0
    here, there = (
        {row.image_path: vector for row, vector in zip(store.rows(), np.concatenate([v for _, v in store.blocks()]), strict=True)}
        for store in (Store.open(tmp_path / "here.store"), Store.open(tmp_path / "o.store"))
    )  # fmt: skip
    for path, vector in here.items():
        np.testing.assert_array_equal(vector, there[path])
    code, out, _ = run(*words)
    assert code == 0 and "unchanged         24" in out and "added              0" in out


def test_more_images_than_a_page_of_the_listing(serving, model, tmp_path):
    folder = tmp_path / "bucket"
    (folder / "many").mkdir(parents=True)
    Image.new("RGB", (2, 2), (9, 9, 9)).save(folder / "one.png")
    data = (folder / "one.png").read_bytes()
    for i in range(1050):
        (folder / "many" / f"{i:04d}.png").write_bytes(data)
    serving(folder)
    _, out, _ = run(
        "embed", "s3://photos/many", "--store", tmp_path / "o.store", "--model", model, "--dry-run"
    )
    assert "1,050" in out


def test_a_server_that_is_busy_is_asked_again(serving, pictures, model, tmp_path):
    serving(pictures, fail_every=4)
    code, out, _ = run("embed", "s3://photos/holiday", "--store", tmp_path / "o.store", "--model", model)
    assert code == 0 and "added             24" in out and "skipped            1" in out


def test_a_server_started_anew_in_the_middle_costs_nothing_that_a_rerun_does_not_mend(
    serving, pictures, model, tmp_path
):
    server = serving(pictures)
    words = ["embed", "s3://photos/holiday", "--store", str(tmp_path / "o.store"), "--model", str(model)]
    process = subprocess.Popen(
        [sys.executable, "-m", "simclr", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    while not process.stderr.readline().startswith(b"backend"):  # it has listed, and begins to read
        assert process.poll() is None
    server.close()
    time.sleep(1)
    serving(pictures, server.port)
    process.communicate(timeout=120)
    assert process.returncode in (0, 1)  # 1: not one image was read
    code, _, _ = run(*words)
    assert code == 0 and paths(tmp_path / "o.store") == expected(pictures / "holiday")


def refused(code: int, err: str, *parts: str) -> None:
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("error: s3://") and all(part in last for part in parts), last


def test_a_bucket_that_is_not_there(serving, pictures, model, tmp_path):
    serving(pictures)
    code, _, err = run("embed", "s3://nowhere/x", "--store", tmp_path / "o.store", "--model", model)
    refused(code, err, "s3://nowhere/x", "bucket does not exist")
    assert not (tmp_path / "o.store").exists()


def test_no_credentials(serving, pictures, model, tmp_path, monkeypatch):
    serving(pictures)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, err = run("embed", "s3://photos/holiday", "--store", tmp_path / "o.store", "--model", model)
    refused(code, err, "credentials", "AWS_ACCESS_KEY_ID")


def test_no_server(model, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    code, _, err = run("embed", "s3://photos/holiday", "--store", tmp_path / "o.store", "--model", model)
    refused(code, err, "cannot be reached")

"""Embedding on a Ray cluster of two machines: the store of one machine, whatever is killed; and what may be wrong with a cluster."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simclr
from simclr.embed import Lane, Report, Store, embed_sources
from simclr.embed import cluster as cluster_module
from simclr.embed.cluster import Cluster
from simclr.embed.tasks import Task
from simclr.errors import ConfigError
from simclr.runtime import Encoder
from simclr.sources import Place

# Ray's own warnings; and a driver whose cluster goes ends its whole process
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

COUNT = 150
NOTHING_KNOWN = np.empty(0, np.uint64)


class Machines:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("ray_cluster.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.address = self._process.stdout.readline().strip()

    def tell(self, words: str) -> None:
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == words

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    pytest.importorskip("ray.data")
    found = Machines()
    yield found
    sys.modules["ray"].shutdown()
    found.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """150 images, two of them copies, and four files that are none."""
    folder = tmp_path_factory.mktemp("cluster") / "pictures"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(COUNT - 2):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((40, 30), Image.Resampling.BICUBIC).save(
            folder / ("deep" if i % 2 else "") / f"{i:03d}.jpg"
        )
    for i in (0, 100):
        (folder / "deep" / f"copy{i}.jpg").write_bytes((folder / f"{i:03d}.jpg").read_bytes())
    for i in range(4):
        (folder / f"broken{i}.jpg").write_bytes((folder / "002.jpg").read_bytes()[: 100 + i])
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(cluster_module, "_ON_CPU", 8)


def contents(store: Path) -> dict[str, np.ndarray]:
    """Vector of each path; each once."""
    opened = Store.open(store)
    rows = opened.rows()
    vectors = np.concatenate([block for _, block in opened.blocks()])
    found = {row.image_path: vector for row, vector in zip(rows, vectors, strict=True)}
    assert len(found) == len(rows) == len({row.id for row in rows})
    return found


def on_one_machine(model: Path, pictures: Path, store: Path) -> tuple[Report, dict[str, np.ndarray]]:
    report = embed_sources([pictures], store, Lane(Encoder.open(model)), model=model)
    return report, contents(store)


def on_many(
    model: Path,
    pictures: Path,
    store: Path,
    machines: Machines,
    hook: Callable[[int], None] = lambda done: None,
) -> tuple[Report, dict[str, np.ndarray]]:
    lane = Cluster(model, address=machines.address)
    report = embed_sources(
        [pictures], store, lane, model=model, progress=lambda done, total, words: hook(done)
    )
    return report, contents(store)


def skipped(store: Path) -> list[str]:
    return sorted((store / "skipped.csv").read_text().splitlines())


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys() and len(found) == COUNT
    for path, vector in found.items():
        assert vector @ expected[path] > 0.999


def test_the_store_is_that_of_one_machine_and_runs_again_in_step(model, pictures, machines, tmp_path):
    _, expected = on_one_machine(model, pictures, tmp_path / "one.store")
    report, found = on_many(model, pictures, tmp_path / "many.store", machines)
    assert_same(found, expected)
    assert report.added + report.copied == COUNT and report.skipped == 4
    assert skipped(tmp_path / "many.store") == skipped(tmp_path / "one.store")
    ids = {row.image_path: row.id for row in Store.open(tmp_path / "many.store").rows()}
    again, _ = on_many(model, pictures, tmp_path / "many.store", machines)
    assert (again.kept, again.embedded) == (COUNT, 0)
    assert {row.image_path: row.id for row in Store.open(tmp_path / "many.store").rows()} == ids


@pytest.mark.parametrize("word", ["kill a worker", "kill a machine"])
def test_whatever_is_killed_the_rest_goes_on(model, pictures, machines, tmp_path, capsys, word):
    _, expected = on_one_machine(model, pictures, tmp_path / "one.store")
    killed = []

    def kill(done: int) -> None:
        if done >= 16 and not killed:
            killed.append(done)
            machines.tell(word)

    try:
        report, found = on_many(model, pictures, tmp_path / "many.store", machines, kill)
    finally:
        if word == "kill a machine":
            machines.tell("add a machine")
    assert killed and killed[0] < COUNT
    assert capsys.readouterr().out == ""  # Ray's words about it are not among results
    assert_same(found, expected)
    assert report.skipped == 4


def test_a_machine_with_another_version_is_an_error(model, pictures, machines, tmp_path, monkeypatch):
    monkeypatch.setattr(simclr, "__version__", "0.0.1")
    with pytest.raises(
        ConfigError, match=r"has simclr-toolkit .* but the command is of 0\.0\.1\. Install the same"
    ):
        on_many(model, pictures, tmp_path / "many.store", machines)
    assert not (tmp_path / "many.store").exists()


def test_a_machine_that_does_not_see_the_images_is_an_error(model, machines):
    tasks = [Task(0, Place("/nowhere/at/all.jpg"))]
    with pytest.raises(ConfigError, match=r"does not see /nowhere/at/all\.jpg\. Mount the folder there"):
        list(Cluster(model, address=machines.address).run(tasks, NOTHING_KNOWN))


def test_a_disk_that_is_full_on_a_machine_is_an_error(model, machines, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "files_to_copy", lambda model: [tmp_path / ("x" * 200)])
    (tmp_path / ("x" * 200)).write_bytes(b"")
    job = cluster_module.Orders  # a name that no disk takes stands for one that takes nothing
    monkeypatch.setattr(
        cluster_module, "Orders", lambda **values: job(**values | {"files": {"x" * 300: b""}})
    )
    with pytest.raises(simclr.errors.SimclrError, match=r"File name too long: .* Make room there"):
        on_many(model, pictures, tmp_path / "many.store", machines)

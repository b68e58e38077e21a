"""`simclr index` from the command line: what it prints, and its exit codes."""

import json
import re

import numpy as np
import pytest
from test_cli import run

from simclr.artifacts import SourceInfo
from simclr.embed import writer as writer_module
from simclr.embed.shards import Row
from simclr.embed.writer import writing


@pytest.fixture
def store(model, photos, tmp_path):
    """The twelve photos, not indexed yet."""
    path = tmp_path / "out.store"
    assert run("embed", photos, "--store", path, "--model", model)[0] == 0
    return path


@pytest.fixture
def large_store(model, tmp_path, monkeypatch):
    """300 vectors in shards of 100."""
    vectors = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folder = tmp_path / "large.store"
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 100)
    with writing(folder, model=model, identity="made up", width=12) as writer:
        writer.add_sources([SourceInfo(kind="folder", root=str(tmp_path))])
        for start in (0, 100, 200):
            rows = [stored_row(id) for id in writer.new_ids(100)]
            writer.commit(rows, vectors[start : start + 100])
    return folder


def stored_row(id: int) -> Row:
    return Row(
        id=id,
        source=0,
        image_path=f"{id}.png",
        size=1,
        mtime_ns=1,
        content_hash=f"{id:064x}",
        width=4,
        height=4,
    )


def test_build_writes_the_index_beside_the_store_and_says_why_it_is_as_it_is(store):
    code, out, err = run("index", "build", store)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "IDMap2,Flat: exact: there are too few vectors to choose by"
    assert lines[1].startswith(f"{store.with_suffix('.faiss')}: 12 vectors, IDMap2,Flat, recall@10 1.000, ")
    assert "index: 12 of 12 images" in err


def test_build_takes_a_type_by_name_and_another_place(store, tmp_path):
    code, out, _ = run(
        "index", "build", store, "--index-type", "IVF2,SQ8", "--recall", 0.1, "--out", tmp_path / "x.faiss"
    )
    assert code == 0
    assert "x.faiss: 12 vectors, IVF2,SQ8" in out


def test_build_as_json_is_the_sidecar(store):
    _, out, _ = run("index", "build", store, "--memory", "1GB", "--latency", "5ms", "--json")
    built = json.loads(out)
    assert built["wish"] == {"index_type": "auto", "memory": 10**9, "recall": 0.95, "latency": 5.0}
    assert (built["factory"], built["size"]) == ("IDMap2,Flat", 12)


def test_an_index_that_finds_too_little_ends_with_3_and_can_be_used(store, photos, monkeypatch):
    from simclr.embed.index import proving

    figures = proving._figures
    monkeypatch.setattr(proving, "_figures", lambda *a: figures(*a) | {"recall@10": 0.5})
    code, _, err = run("index", "build", store)
    assert code == 3
    assert "recall@10 is 0.500, below the 0.95 asked for. It can be used" in err
    assert run("search", store.with_suffix(".faiss"), photos / "warm/red_light.png", "-k", 1)[0] == 0


def test_embed_ends_with_3_too(photos, model, tmp_path, monkeypatch):
    from simclr.embed.index import proving

    figures = proving._figures
    monkeypatch.setattr(proving, "_figures", lambda *a: figures(*a) | {"recall@10": 0.5})
    assert run("embed", photos, "--index", tmp_path / "o.faiss", "--model", model)[0] == 3


def test_a_slow_index_is_only_remarked(store, monkeypatch):
    from simclr.embed.index import proving

    figures = proving._figures
    monkeypatch.setattr(proving, "_figures", lambda *a: figures(*a) | {"latency_ms": 50.0})
    code, _, err = run("index", "build", store)
    assert code == 0
    assert "a query takes 50 ms, more than the 10 asked for, while it was measured" in err


def test_embed_takes_the_budgets_and_keeps_them_for_the_next_time(photos, model, tmp_path):
    path = tmp_path / "o.faiss"
    code, out, _ = run(
        "embed", photos, "--index", path, "--model", model, "--index-type", "IVF2,Flat", "--recall", 0.1
    )
    assert (code, "o.faiss: 12 vectors, IVF2,Flat" in out) == (0, True)
    (photos / "warm" / "red_dark.png").unlink()
    assert "o.faiss: 11 vectors, IVF2,Flat" in run("embed", photos, "--index", path)[1]


def test_info_says_what_an_index_is(store):
    run("index", "build", store)
    path = store.with_suffix(".faiss")
    code, out, _ = run("index", "info", path)
    assert code == 0
    assert "  store      out.store, generation 1, encoder " in out
    assert "  holds      12 vectors of 12 numbers\n" in out
    assert "  asked for  auto, recall 0.95, 10 ms, half of the free memory\n" in out
    assert re.search(r"^  searched   with rerank (10|15|20)$", out, re.MULTILINE)  # whichever was fastest


def test_info_says_that_an_index_is_behind(store, photos):
    run("index", "build", store)
    (photos / "warm" / "red_dark.png").unlink()
    run("embed", photos, "--store", store)
    assert "is older than its store" in run("index", "info", store.with_suffix(".faiss"))[2]


def test_check_says_that_an_index_is_whole(store):
    run("index", "build", store)
    path = store.with_suffix(".faiss")
    code, out, _ = run("index", "check", path)
    assert (code, out.startswith(f"{path}: whole, recall@10 1.000, ")) == (0, True)


def test_check_of_a_damaged_index_ends_with_1(store):
    run("index", "build", store)
    path = store.with_suffix(".faiss")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    code, _, err = run("index", "check", path)
    assert (code, f"error: {path}: damaged or replaced" in err) == (1, True)


def test_check_without_entries_says_how_to_mend_it(store):
    run("index", "build", store)
    path = store.with_suffix(".faiss")
    path.with_name("out.faiss.entries").unlink()
    code, out, err = run("index", "check", path)
    assert code == 1
    assert "out.faiss.entries: missing or damaged" in out
    assert f"Build it anew with: simclr index build STORE --out {path}" in err


def test_merge_puts_two_indexes_together(photos, model, tmp_path):
    for group in ("warm", "cold"):
        run("embed", photos / group, "--index", tmp_path / f"{group}.faiss", "--model", model)
    code, out, _ = run(
        "index", "merge", tmp_path / "warm.faiss", tmp_path / "cold.faiss", "--out", tmp_path / "all.faiss"
    )
    assert (code, out.startswith(f"{tmp_path / 'all.faiss'}: 12 vectors, IDMap2,Flat, recall@10 1.000")) == (
        0,
        True,
    )
    hits = run("search", tmp_path / "all.faiss", photos / "warm/red_light.png", "-k", 12)[1].splitlines()
    assert {line.split("  ")[1] for line in hits} == {str(path) for path in photos.rglob("*.png")}


WRONG = {
    "no store": (["index", "build", "none.store"], 1, "none.store: no store there"),
    "unknown type": (
        ["index", "build", "STORE", "--index-type", "IVFx"],
        2,
        "index type IVFx: FAISS cannot make it",
    ),
    "too little memory": (["index", "build", "STORE", "--memory", "zero"], 2, "memory 'zero': not an amount"),
    "no recall": (["index", "build", "STORE", "--recall", "2"], 2, "recall (2) must be"),
    "no index": (["index", "info", "none.faiss"], 1, "none.faiss: no such index"),
    "nothing to check": (["index", "check", "none.faiss"], 1, "none.faiss: no such index"),
    "one index": (["index", "merge", "a.faiss", "--out", "b.faiss"], 2, "two indexes or more are needed"),
    "merging nothing": (
        ["index", "merge", "a.faiss", "b.faiss", "--out", "c.faiss"],
        1,
        "a.faiss: no such index",
    ),
    "budgets of embed": (
        ["embed", "PHOTOS", "--index", "o.faiss", "--latency", "soon"],
        2,
        "latency 'soon': not an amount",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_its_exit_code(case, store, photos, model, monkeypatch, tmp_path):
    words, expected, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    places = {"STORE": store, "PHOTOS": photos}
    code, out, err = run(*(places.get(word, word) for word in words))
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out, len(errors)) == (expected, "", 1)
    assert message in errors[0]


def test_an_index_is_trained_built_in_parts_and_joined(large_store, tmp_path):
    index = tmp_path / "o.faiss"
    code, out, err = run(
        "index", "train", large_store, "--out", index, "--index-type", "IVF4,SQ8", "--recall", 0.5
    )
    assert (code, out) == (0, "IVF4,SQ8: as asked for\n")
    assert f"next: simclr index build {large_store} --out {index} --shard 1/N, and so on to N/N" in err
    sizes = []
    for shard in ("1/2", "2/2"):
        code, out, err = run("index", "build", large_store, "--out", index, "--shard", shard)
        found = re.fullmatch(re.escape(f"{index}: part {shard}, ") + r"(\d+) vectors\n", out)
        assert (code, bool(found)) == (0, True)
        sizes.append(int(found[1]))
    assert sum(sizes) == 270  # 30 of the 300 are left out until they are joined
    code, out, err = run("index", "join", large_store, "--out", index)
    assert code == 0
    assert out.startswith(f"{index}: 300 vectors, IVF4,SQ8, recall@10 ")
    assert run("index", "check", index)[0] == 0


def test_the_parts_of_an_index_take_no_budgets(large_store):
    code, _, err = run("index", "build", large_store, "--shard", "1/2", "--memory", "1GB")
    assert code == 2
    assert "Say type and budgets to: simclr index train" in err


def test_a_part_without_training_names_the_command(large_store, tmp_path):
    code, _, err = run("index", "build", large_store, "--out", tmp_path / "o.faiss", "--shard", "1/2")
    assert code == 1
    assert f"Run: simclr index train {large_store} --out {tmp_path / 'o.faiss'}" in err
    assert not list(tmp_path.glob("o.faiss*"))


def test_joining_says_which_parts_are_missing(large_store, tmp_path):
    index = tmp_path / "o.faiss"
    run("index", "train", large_store, "--out", index, "--index-type", "IVF4,SQ8")
    run("index", "build", large_store, "--out", index, "--shard", "2/2")
    code, _, err = run("index", "join", large_store, "--out", index)
    assert code == 1
    assert "missing 1/2. Run: simclr index build" in err

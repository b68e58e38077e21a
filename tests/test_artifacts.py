import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from simclr.artifacts import (
    Artifact,
    EncoderInfo,
    Fidelity,
    IndexInfo,
    IndexTrial,
    IndexWish,
    ModelFile,
    ModelInfo,
    ShardInfo,
    SourceInfo,
    StoreInfo,
    file_sha256,
    write_atomically,
)
from simclr.errors import ArtifactError
from simclr.preprocess import Recipe

ENCODER = EncoderInfo(
    name="resnet18",
    small_stem=True,
    width=512,
    weights_sha256="ab" * 32,
    recipe=Recipe(size=32, crop=1.0),
    parents={"run": "runs/größe", "step": 7},
)
MODEL = ModelInfo(
    encoder=ENCODER,
    files={
        "encoder.onnx": ModelFile(
            sha256="cd" * 32,
            size=94_000_000,
            precision="fp32",
            opset=18,
            probe_cosine=0.9999999,
            fidelity=Fidelity(
                images=16,
                cosine_min=0.9999995,
                cosine_low=0.9999996,
                cosine_mean=0.9999998,
                max_difference=1e-7,
                recall_1=1.0,
                recall_10=None,
                top_1=None,
                batches=(1, 8),
                batch_cosine=1.0,
                measured_on="a provider",
                passed=True,
                failed="",
            ),
            accepted=False,
        )
    },
    probe_size=2_400_000,
    probe_sha256="ef" * 32,
    max_batch=256,
    versions={"torch": "2.14.1"},
)
STORE = StoreInfo(
    uid="56" * 16,
    generation=3,
    identity="12" * 32,
    width=512,
    sources=(
        SourceInfo(kind="folder", root="/photos"),
        SourceInfo(kind="tar", root="s3://more"),
    ),
    next_id=9,
    next_shard=1,
    shards=(ShardInfo(number=0, rows=4, vectors_sha256="aa", metadata_sha256="bb"),),
)
INDEX = IndexInfo(
    sha256="34" * 32,
    generation=3,
    store="out.store",
    store_uid="56" * 16,
    identity="12" * 32,
    width=512,
    size=4,
    buried=1,
    built_with=4,
    factory="IVF16,Flat",
    search_parameters={"nprobe": 8.0, "rerank": 20.0},
    wish=IndexWish(memory=1_000_000),
    reason="the fastest",
    trials=(
        IndexTrial(
            factory="IVF16,Flat",
            memory=3000,
            recall=0.99,
            queries_per_second=100.0,
            latency=None,
            build_seconds=0.5,
            verdict="chosen",
        ),
    ),
    measured={
        "recall@10": 0.99,
        "queries_per_second": 900.0,
        "latency_ms": 1.5,
        "latency_p99_ms": 2,
        "bytes": 4000,
        "changed_since": 0,
    },
    entries_sha256="78" * 32,
)
ALL = [ENCODER, MODEL, STORE, INDEX]


def edited(path: Path, **changes: object) -> Path:
    """MODEL's file with some of its values changed; None takes one out."""
    MODEL.save(path)
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return path


# --- identity ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"name": "resnet34"},
        {"small_stem": False},
        {"weights_sha256": "00" * 32},
        {"recipe": Recipe(size=32, crop=0.875)},
        {"recipe": Recipe(size=33, crop=1.0)},
        {"recipe": Recipe(size=32, crop=1.0, mean=(0.5, 0.5, 0.5))},
    ],
    ids=str,
)
def test_whatever_decides_a_vector_changes_the_identity(change: dict[str, object]) -> None:
    assert replace(ENCODER, **change).identity != ENCODER.identity


def test_where_the_weights_come_from_does_not_change_the_identity() -> None:
    assert replace(ENCODER, parents={}).identity == ENCODER.identity


def test_the_identity_survives_saving(tmp_path: Path) -> None:
    ENCODER.save(tmp_path / "encoder.json")
    assert EncoderInfo.load(tmp_path / "encoder.json").identity == ENCODER.identity


def test_the_identity_is_the_sha256_of_its_parts_as_json() -> None:
    recipe = {
        "crop": 1.0,
        "interpolation": "bicubic",
        "margin": 2.0,
        "mean": [0.485, 0.456, 0.406],
        "size": 32,
        "std": [0.229, 0.224, 0.225],
    }
    text = json.dumps(["resnet18", True, "ab" * 32, recipe])
    assert ENCODER.identity == hashlib.sha256(text.encode()).hexdigest()


# --- save and load -------------------------------------------------------------------------------


@pytest.mark.parametrize("artifact", ALL, ids=lambda artifact: artifact.KIND)
def test_what_was_saved_is_loaded(tmp_path: Path, artifact: Artifact) -> None:
    artifact.save(tmp_path / "a.json")
    assert type(artifact).load(tmp_path / "a.json") == artifact


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "a.json")
    ModelInfo.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_file_says_what_it_is_and_in_which_format(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "a.json")
    values = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (values["simclr"], values["format"]) == ("model", 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ArtifactError, match=f"^{path}: no such file. Make it with `simclr export`.$"):
        ModelInfo.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"[1]", b'"text"', b"null", b"{}", b'{"simclr": "model"}', b"\xff\xfe"],
)
def test_a_file_that_simclr_did_not_write_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"^{path}: damaged, or not written by simclr"):
        ModelInfo.load(path)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"^{tmp_path}: damaged, or not written by simclr"):
        ModelInfo.load(tmp_path)


def test_a_file_of_another_kind_says_both_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    STORE.save(path)
    with pytest.raises(ArtifactError, match=f"^{path}: describes a store, but a model is needed here.$"):
        ModelInfo.load(path)


def test_a_file_of_another_version_says_both_versions(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.json", format=2)
    with pytest.raises(ArtifactError, match=f"^{path}: format 2, but this simclr reads 1. Write it again.$"):
        ModelInfo.load(path)


@pytest.mark.parametrize("key", ["encoder", "files", "probe_sha256", "max_batch", "probe_size", "versions"])
def test_a_missing_key_is_named_with_its_file(tmp_path: Path, key: str) -> None:
    path = edited(tmp_path / "a.json", **{key: None})
    with pytest.raises(
        ArtifactError, match=rf"^{path}: damaged \(missing or unknown: {key}\). Write it again.$"
    ):
        ModelInfo.load(path)


def test_an_unknown_key_is_named_with_its_file(tmp_path: Path) -> None:
    path = edited(tmp_path / "a.json", colour="red")
    with pytest.raises(ArtifactError, match=rf"^{path}: damaged \(missing or unknown: colour\)"):
        ModelInfo.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch": "256"},
        {"max_batch": True},
        {"max_batch": 2.5},
        {"probe_sha256": 7},
        {"files": []},
        {"files": {"encoder.onnx": "abc"}},
        {"files": {"encoder.onnx": {"sha256": "a", "precision": "fp32", "opset": "18"}}},
        {"versions": {"torch": 2}},
        {"probe_size": "good"},
        {"encoder": 5},
        {"encoder": ["name", "small_stem", "width", "weights_sha256", "recipe", "parents"]},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_damage_in_the_named_file(
    tmp_path: Path, change: dict[str, object]
) -> None:
    path = edited(tmp_path / "a.json", **change)
    with pytest.raises(ArtifactError, match=f"^{path}: damaged "):
        ModelInfo.load(path)


@pytest.mark.parametrize(
    ("value", "good"), [(None, True), (0.97, True), (1, True), ("0.97", False), ([1], False)]
)
def test_a_number_that_may_be_absent_is_a_number_or_null(tmp_path: Path, value: object, good: bool) -> None:
    path = edited(tmp_path / "a.json")
    values = json.loads(path.read_text())
    values["files"]["encoder.onnx"]["fidelity"]["recall_10"] = value
    path.write_text(json.dumps(values))
    if good:
        assert ModelInfo.load(path).files["encoder.onnx"].fidelity.recall_10 == value
    else:
        with pytest.raises(ArtifactError, match=f"^{path}: damaged "):
            ModelInfo.load(path)


def test_a_text_in_place_of_a_list_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    MODEL.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": "encoder.onnx"}))
    with pytest.raises(ArtifactError, match=rf"^{path}: damaged \('encoder.onnx' is no object\)"):
        ModelInfo.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 0}, "a count is negative"),
        ({"size": -1}, "a count is negative"),
        ({"search_parameters": {"nprobe": float("nan")}}, "search parameters"),
        ({"search_parameters": {"rerank": 0.0}}, "search parameters"),
        ({"measured": INDEX.measured | {"changed_since": float("inf")}}, "measured: changed_since"),
        ({"measured": {}}, "measured: recall@10"),
        ({"wish": {"index_type": "auto", "memory": None, "recall": 10**400, "latency": 1}}, "too large"),
    ],
)
def test_a_sidecar_with_numbers_that_make_no_sense_is_refused(
    tmp_path: Path, change: dict, words: str
) -> None:
    """Its seal is right."""
    values = json.loads(json.dumps(asdict(INDEX))) | change
    seal = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"simclr": "index", "format": 1, "seal": seal} | values))
    with pytest.raises(ArtifactError, match=rf"^{path}: damaged \(.*{words}"):
        IndexInfo.load(path)


def test_a_path_that_is_not_unicode_comes_back(tmp_path: Path) -> None:
    info = replace(INDEX, store="\udcff.store")
    info.save(tmp_path / "a.json")
    assert IndexInfo.load(tmp_path / "a.json") == info


@pytest.mark.parametrize("change", ["a digit", "a root", "no seal"])
def test_a_store_manifest_that_was_changed_by_a_letter_is_refused(tmp_path: Path, change: str) -> None:
    """Nothing else vouches for it: a next_id that lost a bit would give ids twice."""
    path = tmp_path / "a.json"
    STORE.save(path)
    old, new = {
        "a digit": ('"next_id": 9', '"next_id": 1'),
        "a root": ("/photos", "/phptos"),
        "no seal": ('"seal"', '"_seal"'),
    }[change]
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ArtifactError, match=f"^{path}: damaged or edited, its seal is broken"):
        StoreInfo.load(path)


@pytest.mark.parametrize(
    "recipe",
    [{}, {"size": 32}, Recipe().to_dict() | {"interpolation": "lanczos"}, Recipe().to_dict() | {"size": 0}, Recipe().to_dict() | {"size": "32"}, 5, None],
    ids=str,
)  # fmt: skip
def test_a_damaged_recipe_is_damage_in_the_named_file(tmp_path: Path, recipe: object) -> None:
    path = tmp_path / "a.json"
    ENCODER.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": recipe}))
    with pytest.raises(ArtifactError, match=f"^{path}: damaged "):
        EncoderInfo.load(path)


# --- files ---------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    write_atomically(tmp_path / "a", lambda temporary: temporary.write_text("new"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new"}


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def fails(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a", fails)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_file_is_on_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replace"), rename(*paths)))
    write_atomically(tmp_path / "a", lambda temporary: temporary.write_text("new"))
    assert events == ["fsync", "replace", "fsync"]  # the last one: the folder


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_digest_of_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"^{tmp_path}/a: cannot be read"):
        file_sha256(tmp_path / "a")

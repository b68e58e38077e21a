"""Each verb: what it prints, and what it says when something is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import simclr
from simclr.cli import app


def run(*arguments: object, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command, in this process."""
    before = Path.cwd()
    if cwd:
        os.chdir(cwd)
    try:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def index(model, photos, tmp_path) -> Path:
    """The twelve photos, indexed."""
    path = tmp_path / "out.faiss"
    assert run("embed", photos, "--index", path, "--model", model)[0] == 0
    return path


def test_version():
    assert run("--version") == (0, f"{simclr.__version__}\n", "")


def test_python_m_simclr_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "simclr", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: simclr ")


def counted(out: str) -> dict[str, int]:
    """The table that embed prints."""
    lines = [line.split() for line in out.splitlines() if line.startswith("  ")]
    return {words[0]: int(words[1]) for words in lines if words[1].isdigit()}


NOTHING = dict.fromkeys(("added", "changed", "moved", "copied", "unchanged", "dropped", "skipped"), 0)


def test_embed_says_what_it_did_and_what_the_index_is_worth(model, photos, tmp_path):
    code, out, err = run("embed", photos, "--index", tmp_path / "out.faiss", "--model", model)
    first, *_, last = out.splitlines()
    assert code == 0
    assert first == f"{tmp_path / 'out.store'}: 12 images of these sources"
    assert counted(out) == NOTHING | {"added": 12}
    assert last.startswith(f"{tmp_path / 'out.faiss'}: 12 vectors, IDMap2,Flat, recall@10 1.000, ")
    assert f"next: simclr search {tmp_path / 'out.faiss'} IMAGE" in err


def test_embedding_again_changes_nothing(index, photos):
    before = index.stat().st_mtime_ns
    code, out, _ = run("embed", photos, "--index", index)
    assert (code, index.stat().st_mtime_ns) == (0, before)
    assert counted(out) == NOTHING | {"unchanged": 12}


def test_a_bad_file_is_skipped_and_named(model, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    code, out, _ = run("embed", photos, "--index", tmp_path / "out.faiss", "--model", model)
    assert code == 0
    assert counted(out) == NOTHING | {"added": 12, "skipped": 1}
    assert f"damaged JPEG 1; each is in {tmp_path / 'out.store' / 'skipped.csv'}" in out


def test_embed_fails_when_no_image_can_be_read(model, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no image")
    code, _, err = run("embed", folder, "--index", tmp_path / "out.faiss", "--model", model)
    assert code == 1
    assert "error: none of the images could be embedded" in err
    assert not (tmp_path / "out.faiss").exists()


def test_search_prints_similarity_and_path_best_first(index, photos):
    code, out, err = run("search", index, photos / "warm/red_light.png", "-k", 2)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == f"1.000  {photos / 'warm/red_light.png'}"
    assert second.endswith(f"{photos / 'warm/red_dark.png'}")


def test_search_json_gives_one_object_a_line_with_the_documented_keys(index, photos):
    queries = [photos / "warm/red_light.png", photos / "cold/blue_light.png"]
    lines = [json.loads(line) for line in run("search", index, *queries, "-k", 3, "--json")[1].splitlines()]
    assert [list(line) for line in lines] == [["query", "rank", "id", "path", "similarity"]] * 6
    assert [line["rank"] for line in lines] == [1, 2, 3, 1, 2, 3]
    assert [line["query"] for line in lines[::3]] == [str(query) for query in queries]
    assert all(Path(line["path"]).exists() for line in lines)


def test_search_writes_a_gallery(index, photos, tmp_path):
    code, _, err = run("search", index, photos / "warm/red_light.png", "--html", tmp_path / "g.html")
    assert code == 0
    assert f"gallery: {tmp_path / 'g.html'}" in err
    assert (tmp_path / "g.html").read_text().count("data:image/jpeg;base64,") == 11


def test_searching_a_stale_index_says_how_to_mend_it(index, photos):
    (photos / "warm/red_dark.png").unlink()
    run("embed", photos, "--store", index.with_suffix(".store"))
    code, out, err = run("search", index, photos / "warm/red_light.png")
    assert code == 0
    assert f"{index} is older than its store" in err
    assert "red_dark" not in out


def test_export_says_what_it_wrote_and_how_close_it_is(tmp_path):
    out_folder = tmp_path / "export"
    code, out, err = run(
        "export", "timm:test_resnet", "--no-pretrained", "--image-size", 32, "--out", out_folder
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == str(out_folder / "encoder.onnx")
    assert (
        lines[1].split("  ")[0] == "precision" and lines[2].split()[0] == "fp32" and lines[2].endswith("ok")
    )
    assert lines[3] == "recommended here: fp32, nothing else exported is faster on this machine"
    assert f"next: simclr embed PHOTOS --model {out_folder}" in err


def test_a_weights_file_is_exported_with_the_preprocessing_it_is_told(tmp_path):
    import torch

    from simclr.encoder import build_encoder

    state = {f"backbone.{name}": tensor for name, tensor in build_encoder("test_resnet").state_dict().items()}
    torch.save({"state_dict": state | {"projector.0.weight": torch.ones(8, 96)}}, tmp_path / "w.ckpt")
    words = ["export", tmp_path / "w.ckpt", "--encoder", "test_resnet", "--size", 32, "--out", tmp_path / "e"]
    code, _, err = run(*words, "--mean", "0.1,0.2,0.3", "--std", "0.4,0.5,0.6")
    assert code == 0
    assert re.match(
        r"weights: (\d+) of \1 tensors of the encoder from w\.ckpt, named state_dict: backbone\.\* there\n"
        r"weights: 1 unexpected, so left out: projector\.0\.weight\n",
        err,
    )
    recipe = json.loads((tmp_path / "e/manifest.json").read_text())["encoder"]["recipe"]
    assert (recipe["size"], recipe["mean"], recipe["std"]) == (32, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_a_pretrain_command_leaves_a_run_and_refuses_to_overwrite_it(noise_photos, tmp_path):
    arguments = ["pretrain", "--data", noise_photos, "--out", tmp_path / "run", "--encoder", "test_resnet"]
    arguments += ["--image-size", 32, "--batch-size", 8, "--epochs", 1, "--set", "workers=0"]
    code, out, err = run(*arguments)
    assert (code, out) == (0, f"{tmp_path / 'run'}\n")
    assert f"next: simclr export {tmp_path / 'run'}" in err
    before = (tmp_path / "run/metrics.jsonl").read_bytes()

    code, _, err = run(*arguments)
    assert code == 2
    assert (
        err
        == f"error: {tmp_path / 'run'}: a run exists there. Continue it with --resume, or use another --out.\n"
    )
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before

    code, out, err = run("pretrain", "--resume", "--out", tmp_path / "run")
    assert code == 0
    assert "is finished: 3 of 3 steps done" in err


MISTAKES = {
    "no data": (["pretrain"], 2, "--data is missing"),
    "no such folder": (["pretrain", "--data", "nope"], 1, "nope: no such folder"),
    "no image in it": (["pretrain", "--data", "empty"], 1, "empty: no image found"),
    "unknown setting": (["pretrain", "--data", "photos", "--set", "epoch=3"], 2, "epoch: no such setting. Did you mean epochs?"),
    "unknown encoder": (["pretrain", "--data", "photos", "--encoder", "resnet5o"], 2, "Did you mean resnet50"),
    "batch too large": (["pretrain", "--data", "photos", "--batch-size", "99"], 2, "more than the 12 images found"),
    "nothing to export": (["export"], 2, "no run in it"),
    "no such run": (["export", "runs/x"], 1, "runs/x: no such run folder or weights file"),
    "mean without numbers": (["export", "timm:resnet18", "--mean", "grey"], 2, "--mean grey: give three numbers in 0..1"),
    "mean of bytes": (["export", "timm:resnet18", "--mean", "123,116,103"], 2, "mean 123,116,103 is of values in 0..255"),
    "deviation of nothing": (["export", "timm:resnet18", "--std", "0,1,1"], 2, "std 0,1,1 must be three numbers, each above 0"),
    "unknown timm model": (["export", "timm:resnet5o"], 2, "is not a timm model"),
    "no model": (["embed", "photos", "--index", "o.faiss"], 1, "no exported model"),
    "no index named": (["embed", "photos"], 2, "--index is missing"),
    "index is a folder": (["embed", "photos", "--index", "empty", "--model", "MODEL"], 2, "empty: names a folder"),
    "index is a store": (["embed", "photos", "--index", "o.store", "--model", "MODEL"], 2, "o.store: names a folder"),
    "folder missing": (["embed", "nope", "--index", "o.faiss", "--model", "MODEL"], 1, "nope: no such folder"),
    "folder empty": (["embed", "empty", "--index", "o.faiss", "--model", "MODEL"], 1, "empty: no image found"),
    "backend missing": (["embed", "photos", "--index", "o.faiss", "--model", "MODEL", "--backend", "ort-cuda"], 2, "backend ort-cuda"),
    "no index": (["search", "o.faiss", "photos/warm/red_light.png"], 1, "o.faiss: no such index"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_exit_code_and_leaves_nothing(mistake, photos, model, tmp_path):
    arguments, expected_code, words = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    arguments = [str(model) if argument == "MODEL" else argument for argument in arguments]
    code, out, err = run(*arguments, cwd=tmp_path)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out, len(errors)) == (expected_code, "", 1)
    assert words in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_index_is_refused(index, photos):
    content = bytearray(index.read_bytes())
    content[-20] ^= 1
    index.write_bytes(content)
    code, out, err = run("search", index, photos / "warm/red_light.png")
    assert (code, out) == (1, "")
    assert f"error: {index}: damaged or replaced" in err


def test_a_query_by_another_encoder_is_refused(index, photos, other_model):
    code, out, err = run("search", index, photos / "warm/red_light.png", "--model", other_model)
    assert (code, out) == (1, "")
    assert "but the index was made by" in err


def test_vectors_of_another_encoder_are_not_added(index, photos, other_model):
    before = (index.with_suffix(".store") / "manifest.json").read_bytes()
    code, _, err = run("embed", photos, "--index", index, "--model", other_model)
    assert code == 1
    assert "its vectors were made by encoder" in err
    assert (index.with_suffix(".store") / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("package", ["torch", "timm", "onnx"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(package, tmp_path):
    """In a fresh interpreter where the import fails, as on a machine that only serves."""
    code = f"import sys\nsys.modules[{package!r}] = None\nimport simclr.cli\nsimclr.cli.main()"
    command = [sys.executable, "-c", code, "export", "timm:test_resnet", "--no-pretrained"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    line = f"error: {package} is not installed. Run: pip install 'simclr-toolkit[train]'\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize(
    ("chunk", "code", "message"),
    [
        ("many", 2, "error: chunk: 'many' is neither a whole number nor auto."),
        ("1", 2, "error: chunk (1) must be auto, or at least 2: batch norm compares views."),
        ("-4", 2, "error: chunk: '-4' is neither a whole number nor auto."),
    ],
)
def test_a_chunk_that_makes_no_sense_is_refused(noise_photos, tmp_path, chunk, code, message):
    found = run("pretrain", "--data", noise_photos, "--out", tmp_path / "run", "--chunk", chunk)
    assert (found[0], found[2].splitlines()) == (code, [message])


def test_pretraining_says_its_chunk_and_its_memory_and_saves_the_chunk(noise_photos, tmp_path):
    out = tmp_path / "run"
    words = ["pretrain", "--data", noise_photos, "--out", out, "--encoder", "test_resnet", "--image-size", 32]
    words += ["--batch-size", 16, "--epochs", 1, "--set", "workers=0", "--device", "cpu"]
    code, _, err = run(*words, "--chunk", 4)
    assert code == 0
    assert err.splitlines()[0] == (
        "chunk 4: 16 images go through the encoder as 4 companies of about 8 first or second views"
    )
    assert re.fullmatch(
        r"memory: about 0\.\d\d GB of \d+\.\d GB free \(weights and optimiser 0\.\d\d, batch 0\.00, graph of 8 views 0\.\d\d\)",
        err.splitlines()[1],
    )
    assert "chunk = 4\n" in (out / "config.toml").read_text()


def test_pretraining_from_a_timm_model_takes_it_as_the_encoder(noise_photos, tmp_path, monkeypatch):
    """The download itself is timm's."""
    from simclr import weights
    from simclr.encoder import build_encoder

    monkeypatch.setattr(weights, "build_encoder", lambda name, *, pretrained: build_encoder(name))
    out = tmp_path / "run"
    words = ["pretrain", "--data", noise_photos, "--out", out, "--image-size", 32, "--batch-size", 8]
    words += [
        "--epochs",
        1,
        "--set",
        "workers=0",
        "--device",
        "cpu",
        "--weights",
        "timm:test_resnet.r160_in1k",
    ]
    code, _, err = run(*words)
    assert code == 0
    assert re.match(r"weights: (\d+) of \1 tensors of the encoder from timm:test_resnet\.r160_in1k\n", err)
    assert json.loads((out / "encoder.json").read_text())["name"] == "test_resnet.r160_in1k"


def test_a_reader_that_has_read_enough_is_no_error():
    """As `simclr doctor | head -1` does."""
    words = [sys.executable, "-m", "simclr", "doctor"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as doctor:
        assert doctor.stdout is not None and doctor.stderr is not None
        assert doctor.stdout.readline().startswith("simclr")
        doctor.stdout.close()
        assert doctor.stderr.read() == ""


@pytest.fixture
def encoder_folder(tmp_path) -> Path:
    """An untrained encoder, as `simclr pretrain` leaves one."""
    from simclr.artifacts import EncoderInfo
    from simclr.encoder import build_encoder, save_encoder, weights_sha256
    from simclr.preprocess import Recipe

    folder = tmp_path / "run"
    folder.mkdir()
    encoder = build_encoder("test_resnet")
    digest = weights_sha256(encoder.state_dict())
    info = EncoderInfo(
        name="test_resnet", small_stem=False, width=encoder.num_features, weights_sha256=digest, recipe=Recipe(size=16)
    )  # fmt: skip
    save_encoder(folder, encoder, info)
    return folder


def test_probe_prints_one_line_and_says_where_it_is_kept(encoder_folder, photos):
    words = ["probe", encoder_folder, "--data", photos, "--epochs", 1, "--workers", 0, "--device", "cpu"]
    code, out, err = run(*words)
    assert code == 0
    assert re.fullmatch(
        r"top-1 \d+\.\d %  \(2 held-out images, 2 classes, 100 % of labels, frozen encoder\)\n", out
    )
    assert f"kept in {encoder_folder / 'probe' / 'linear-100.json'}" in err
    code, out, _ = run(*words, "--json", "--fine-tune", "--labels", 10)
    line = json.loads(out)
    assert (code, line["fine_tune"], line["labels"], line["train_images"]) == (0, True, 10, 2)
    assert json.loads((encoder_folder / "probe/fine-tune-10.json").read_text()).items() > line.items()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--data", "photos/warm"], 2, "6 of its images lie directly in it"),
        (["--data", "nowhere"], 1, "nowhere: no such folder"),
        (["--data", "photos", "--labels", "7"], 2, "--labels 7: give 1, 10 or 100"),
        ([], 2, "--data is missing"),
    ],
)
def test_probe_says_what_is_wrong(encoder_folder, photos, tmp_path, words, code, said):
    found, out, err = run("probe", encoder_folder, *words, cwd=tmp_path)
    assert (found, out) == (code, "")
    assert said in err and err.startswith("error: ")


def test_probe_without_a_run_says_so(photos, tmp_path):
    code, _, err = run("probe", "--data", photos, cwd=tmp_path)
    assert code == 2 and "no run in it" in err


def test_a_dry_run_prints_settings_steps_batches_and_time_and_writes_nothing(noise_photos, tmp_path):
    out = tmp_path / "run"
    words = ["pretrain", "--data", noise_photos, "--out", out, "--encoder", "test_resnet", "--image-size", 32]
    words += [
        "--batch-size",
        8,
        "--epochs",
        3,
        "--chunk",
        4,
        "--device",
        "cpu",
        "--cache",
        "none",
        "--dry-run",
    ]
    code, printed, _ = run(*words)
    settings, _, facts = printed.partition("\n\nchunk 4: ")
    assert code == 0 and not out.exists()
    assert (
        'encoder = "test_resnet"\n' in settings and "chunk = 4\n" in settings and "[augmentation]" in settings
    )
    assert "\nsteps: 7 of 8 images: 3 epochs of 16 images, 112 views\n" in facts
    assert (
        "\nlearning rate: rises to 0.009375 (0.3 x B/256) over 0 steps, then falls to 0 along a cosine; lars\n"
        in facts
    )
    assert (
        "\nbatch: 16 views, each compared with 15 others; they go through the encoder as 2 companies of about 8 "
        in facts
    )
    assert re.search(r"\ntime: about \d+ seconds by a trial of 8 views \([\d,]+ views/s\)", facts)


def test_a_recipe_lies_below_what_the_command_line_says(noise_photos, tmp_path):
    words = [
        "pretrain",
        "--data",
        noise_photos,
        "--out",
        tmp_path / "run",
        "--recipe",
        "cifar10-sgd",
        "--device",
        "cpu",
    ]
    words += [
        "--encoder",
        "test_resnet",
        "--batch-size",
        8,
        "--epochs",
        1,
        "--set",
        "temperature=0.3",
        "--dry-run",
    ]
    code, printed, _ = run(*words)
    assert code == 0
    for line in (
        'optimizer = "sgd"',
        "epochs = 1",
        "temperature = 0.3",
        "crop_min = 0.2",
        "weight_decay = 0.0005",
    ):
        assert f"{line}\n" in printed


def test_an_unknown_recipe_is_refused_with_those_there_are(noise_photos):
    code, _, err = run("pretrain", "--data", noise_photos, "--recipe", "papr")
    assert code == 2
    assert err.startswith("error: recipe 'papr': no such recipe. Give one of cifar10, ")

"""Linear evaluation and fine-tuning: against a loop in numpy, never on a frozen encoder's weights, the same twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from simclr.artifacts import EncoderInfo
from simclr.encoder import build_encoder, load_encoder, save_encoder, weights_sha256
from simclr.errors import ArtifactError, ConfigError, ImageError, SimclrError
from simclr.preprocess import Recipe
from simclr.pretrain import classifier, crops, probe
from simclr.pretrain.classifier import fine_tune, rank_of, score, train_linear, zero_head
from simclr.pretrain.crops import LabelledCrops, crop_batches, flipped
from simclr.pretrain.features import EvaluationPixels
from simclr.pretrain.labels import Labelled, read_labelled
from simclr.pretrain.probe import ProbeConfig

RECIPE = Recipe(size=16, crop=1.0)


class Flat(nn.Module):
    """The mean of each channel, by weights that could be trained and a norm whose statistics could move."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.norm = nn.BatchNorm1d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mean((2, 3)) * self.gain)


def made_batches(count: int, *, images: int = 12, classes: int = 3) -> list[LabelledCrops]:
    rng = np.random.default_rng(0)
    return [
        LabelledCrops(
            torch.from_numpy(rng.integers(0, 256, (images, 8, 8, 3), dtype=np.uint8)),
            torch.from_numpy(rng.random(images) < 0.5),
            torch.from_numpy(rng.integers(0, classes, images)),
            [],
        )
        for _ in range(count)
    ]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """train/ and test/ of six colours: 10 + 4 a class, plain ones with noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for c in range(6):
            folder = tmp_path / "images" / split / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array([40 + 30 * c, 200 - 30 * c, 60 * (c % 3) + 40]) + rng.integers(
                    -20, 20, (36, 44, 3)
                )
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with an untrained encoder, as `simclr pretrain` leaves one."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    encoder = build_encoder("test_resnet")
    info = EncoderInfo(
        name="test_resnet",
        small_stem=False,
        width=encoder.num_features,
        weights_sha256=weights_sha256(encoder.state_dict()),
        recipe=RECIPE,
        parents={"run": "first"},
    )
    save_encoder(folder, encoder, info)
    return folder


# ---- the classifier


def test_the_linear_classifier_is_that_of_a_loop_in_numpy():
    """Softmax regression, v = 0.9 v + g, w -= lr (g + 0.9 v), cosine to 0, from zero: in float64."""
    made = made_batches(20)
    encoder, head = Flat().eval(), zero_head(3, 3)
    recipe = Recipe(size=8)
    w, b = np.zeros((3, 3)), np.zeros(3)
    vw, vb = np.zeros((3, 3)), np.zeros(3)
    for step, batch in enumerate(made):
        x = batch.pixels_NHWC.numpy() / 255.0
        x = np.where(batch.flip_N.numpy()[:, None, None, None], x[:, :, ::-1], x)
        x = ((x - recipe.mean) / recipe.std).mean((1, 2)) / np.sqrt(1 + 1e-5)
        e = np.exp(x @ w.T + b)
        error = e / e.sum(1, keepdims=True) - np.eye(3)[batch.labels_N.numpy()]
        lr = 3.0 * 0.5 * (1 + np.cos(np.pi * step / 20))
        gw, gb = error.T @ x / len(x), error.mean(0)
        vw, vb = 0.9 * vw + gw, 0.9 * vb + gb
        w, b = w - lr * (gw + 0.9 * vw), b - lr * (gb + 0.9 * vb)
    train_linear(encoder, head, made, recipe=recipe, peak=3.0, steps=20)
    np.testing.assert_allclose(head.weight.detach().numpy(), w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.bias.detach().numpy(), b, rtol=1e-4, atol=1e-5)


def test_pieces_of_a_batch_change_nothing(monkeypatch):
    heads = []
    for piece in (128, 5):
        monkeypatch.setattr(classifier, "_PIECE", piece)
        heads.append(zero_head(3, 3))
        train_linear(Flat().eval(), heads[-1], made_batches(6), recipe=Recipe(size=8), peak=1.0, steps=6)
    torch.testing.assert_close(heads[0].weight, heads[1].weight)


def test_fine_tuning_trains_all_weights_and_moves_the_statistics():
    encoder = Flat().eval()
    gain, mean = encoder.gain.detach().clone(), encoder.norm.running_mean.clone()
    # batch norm undoes a gain; only its epsilon lets one through
    encoder.norm.eps = 1.0
    head = zero_head(3, 3)
    fine_tune(encoder, head, made_batches(4), recipe=Recipe(size=8), peak=1.0, steps=4)
    assert not torch.equal(encoder.gain, gain)
    assert not torch.equal(encoder.norm.running_mean, mean)
    assert not encoder.training


def test_a_loss_that_is_no_number_is_said():
    class Infinite(Flat):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.inf

    with pytest.raises(SimclrError, match=r"loss is no number at step 0 of 2.*smaller --batch-size"):
        train_linear(Infinite(), zero_head(3, 3), made_batches(2), recipe=Recipe(size=8), peak=1.0, steps=2)


def test_the_rank_counts_the_classes_before_the_right_one():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, torch.nan, 1.0]])
    assert rank_of(logits, torch.tensor([2, 0, 2, 1])).tolist() == [2, 0, 2, 2]


def test_colours_are_told_apart_after_training_and_not_before(images):
    """The first of equal logits wins, so that before only class 0 is right, and classes 0 to 4 are among the first five."""
    train, test = read_labelled(images)
    assert test is not None
    encoder, head, recipe = Flat(), zero_head(3, 6), Recipe(size=8)
    pixels = EvaluationPixels(test, recipe, workers=0)
    before = score(encoder, head, pixels, device=torch.device("cpu"))
    made = crop_batches(train, steps=80, batch_size=60, size=8, seed=0, workers=0)
    train_linear(encoder, head, made, recipe=recipe, peak=3.0, steps=80)
    after = score(encoder, head, pixels, device=torch.device("cpu"))
    assert before == (pytest.approx(1 / 6), pytest.approx(5 / 6), 24)
    assert after == (1.0, 1.0, 24)


# ---- a frozen encoder


def test_a_linear_probe_leaves_the_encoder_as_it_was_to_the_last_bit():
    encoder = build_encoder("test_resnet")
    encoder.train()
    before = weights_sha256(encoder.state_dict())
    train_linear(
        encoder, zero_head(encoder.num_features, 3), made_batches(2), recipe=Recipe(size=8), peak=1.0, steps=2
    )
    assert weights_sha256(encoder.state_dict()) == before
    assert all(w.grad is None for w in encoder.parameters())


def test_an_encoder_whose_running_statistics_move_gives_no_result(monkeypatch):
    encoder = Flat().train()
    monkeypatch.setattr(encoder, "eval", lambda: encoder)  # stays in train mode
    with pytest.raises(SimclrError, match="the frozen encoder was changed"):
        train_linear(encoder, zero_head(3, 3), made_batches(2), recipe=Recipe(size=8), peak=1.0, steps=2)


def test_an_encoder_that_is_trained_by_someone_gives_no_result():
    encoder = Flat().eval()

    def stolen():
        """Batches whose maker trains the encoder between two steps."""
        for batch in made_batches(3):
            yield batch
            encoder.gain.data.add_(1e-6)

    with pytest.raises(SimclrError, match="the frozen encoder was changed"):
        train_linear(encoder, zero_head(3, 3), stolen(), recipe=Recipe(size=8), peak=1.0, steps=3)


def test_weights_that_refuse_to_be_frozen_get_no_gradient_all_the_same():
    class Unfrozen(Flat):
        def requires_grad_(self, requires_grad: bool = True) -> "Unfrozen":
            return self

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                return super().forward(x)

    encoder, twin = Unfrozen(), Flat()
    heads = zero_head(3, 3), zero_head(3, 3)
    for one, head in zip((encoder, twin), heads, strict=True):
        train_linear(one, head, made_batches(3), recipe=Recipe(size=8), peak=1.0, steps=3)
    assert encoder.gain.requires_grad and encoder.gain.grad is None
    assert torch.equal(heads[0].weight, heads[1].weight)


# ---- crops


def all_crops(images: Labelled, *, workers: int = 0, seed: int = 0, steps: int = 3) -> list[LabelledCrops]:
    return list(crop_batches(images, steps=steps, batch_size=50, size=8, seed=seed, workers=workers))


def same(a: list[LabelledCrops], b: list[LabelledCrops]) -> bool:
    return all(
        torch.equal(x.pixels_NHWC, y.pixels_NHWC)
        and torch.equal(x.flip_N, y.flip_N)
        and torch.equal(x.labels_N, y.labels_N)
        for x, y in zip(a, b, strict=True)
    )


def test_crops_follow_from_the_seed_and_neither_from_workers_nor_from_what_is_kept(images, monkeypatch):
    train, _ = read_labelled(images)
    first = all_crops(train)
    assert same(first, all_crops(train, workers=2))
    assert not same(first, all_crops(train, seed=1))
    monkeypatch.setattr(crops, "DECODED_BYTES", 0)
    assert same(first, all_crops(train))


def test_images_that_fit_in_memory_are_decoded_once(images, monkeypatch):
    train, _ = read_labelled(images)
    counted = []
    decode = crops.decode
    monkeypatch.setattr(crops, "decode", lambda data: counted.append(1) or decode(data))
    all_crops(train, steps=12)
    assert len(counted) == len(train) + crops._SAMPLE
    counted.clear()
    monkeypatch.setattr(crops, "DECODED_BYTES", 60 * 36 * 44 * 3 - 1)
    all_crops(train, steps=12)
    assert len(counted) == crops._SAMPLE + 12 * 50


def test_an_epoch_has_each_image_once_with_its_label(images):
    train, _ = read_labelled(images)
    made = list(crop_batches(train, steps=2, batch_size=30, size=8, seed=0, workers=0))
    assert torch.bincount(torch.cat([batch.labels_N for batch in made])).tolist() == [10] * 6
    for batch in made:  # the red of class c is about 40 + 30 c
        red = batch.pixels_NHWC[..., 0].float().mean((1, 2))
        assert torch.equal(((red - 40) / 30).round().long(), batch.labels_N)


def test_flips_mirror_the_drawn_images():
    batch = made_batches(1)[0]
    rows = torch.tensor([0, 3, 4])
    mirrored = flipped(batch, rows, torch.device("cpu"))
    for i, row in enumerate(rows.tolist()):
        own = batch.pixels_NHWC[row]
        assert torch.equal(mirrored[i], own[:, range(7, -1, -1)] if batch.flip_N[row] else own)


@pytest.mark.parametrize("kept", [True, False])
def test_an_unreadable_image_makes_its_batches_smaller(images, monkeypatch, kept):
    (images / "train/class2/3.png").write_bytes(b"")
    if not kept:
        monkeypatch.setattr(crops, "DECODED_BYTES", 0)
    train, _ = read_labelled(images)
    (batch,) = crop_batches(train, steps=1, batch_size=60, size=8, seed=0, workers=0)
    assert torch.bincount(batch.labels_N).tolist() == [10, 10, 9, 10, 10, 10]
    assert batch.unreadable == [("class2/3.png", "empty file")]


def test_no_readable_image_is_said(images):
    train, _ = read_labelled(images)
    for path in train.paths:
        (train.root / path).write_bytes(b"")
    with pytest.raises(ImageError, match="none of the 50 images of a batch can be read"):
        all_crops(train)


# ---- the whole


def test_a_probe_writes_what_it_measured_and_nothing_else(run, images):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    result = probe.probe(run, ProbeConfig(data=images, epochs=1, device="cpu", workers=0))
    kept = json.loads((run / "probe/linear-100.json").read_text())
    assert kept["top1"] == result.top1 and kept["top5"] == result.top5
    assert kept["encoder"] == load_encoder(run)[1].identity and kept["parents"] == {"run": "first"}
    assert (kept["train_images"], kept["test_images"], kept["classes"]) == (60, 24, 6)
    assert (kept["epochs"], kept["batch_size"], kept["peak_lr"]) == (1, 60, pytest.approx(0.1 * 60 / 256))
    assert str(images.parent) not in (run / "probe/linear-100.json").read_text()
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert [path.name for path in (run / "probe").iterdir()] == ["linear-100.json"]


@pytest.mark.parametrize("tuned", [False, True])
def test_a_probe_is_the_same_twice(run, images, tuned):
    config = ProbeConfig(data=images, epochs=1, fine_tune=tuned, device="cpu", workers=0)
    losses: list[list[str]] = [[], []]
    results = [
        probe.probe(run, config, progress=lambda done, total, words, own=own: own.append(words))
        for own in losses
    ]
    assert results[0] == results[1]
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_fine_tuning_leaves_the_run_as_it_was(run, images):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    result = probe.probe(run, ProbeConfig(data=images, epochs=1, fine_tune=True, device="cpu", workers=0))
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert (run / "probe/fine-tune-100.json").exists() and result.fine_tune


def test_a_tenth_of_the_labels_trains_on_a_tenth_of_each_class(run, images):
    result = probe.probe(run, ProbeConfig(data=images, labels=10, epochs=1, device="cpu", workers=0))
    assert (result.train_images, result.test_images, result.batch_size) == (6, 24, 6)
    assert (run / "probe/linear-10.json").exists()


def test_without_a_test_split_a_fifth_is_held_out_and_that_is_said(run, images):
    said: list[str] = []
    config = ProbeConfig(data=images / "train", epochs=1, device="cpu", workers=0)
    result = probe.probe(run, config, note=said.append)
    assert (result.train_images, result.test_images, result.held_out) == (48, 12, True)
    assert said == [f"{images / 'train'}: no test split, so a fifth of each class is held out: 12 images"]
    assert "(12 held-out images, 6 classes, 100 % of labels, frozen encoder)" in result.words


def test_up_to_five_classes_have_no_top5(run, images):
    import shutil

    for split in ("train", "test"):
        shutil.rmtree(images / split / "class5")
    result = probe.probe(run, ProbeConfig(data=images, epochs=1, device="cpu", workers=0))
    assert result.top5 is None and "top-5" not in result.words


def test_a_file_that_cannot_be_read_is_said_once(run, images):
    (images / "train/class0/0.png").write_bytes(b"")
    (images / "test/class0/0.png").write_bytes(b"")
    said: list[str] = []
    config = ProbeConfig(data=images, epochs=1, device="cpu", workers=0)
    result = probe.probe(run, config, note=said.append)
    assert said == ["skipped class0/0.png: empty file"] * 2  # one of each split
    assert (result.train_images, result.test_images) == (59, 23)


@pytest.mark.parametrize(
    ("tuned", "labels", "epochs"),
    [(False, 100, 90), (False, 1, 90), (True, 1, 60), (True, 10, 30), (True, 100, 30)],
)
def test_epochs_are_the_papers(tuned, labels, epochs):
    assert ProbeConfig(data=Path("x"), fine_tune=tuned, labels=labels).resolved_epochs == epochs


@pytest.mark.parametrize(
    "settings", [{"labels": 50}, {"epochs": 0}, {"batch_size": 0}, {"seed": -1}, {"workers": -1}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match=f"--{next(iter(settings)).replace('_', '-')}"):
        ProbeConfig(data=Path("x"), **settings)


def test_a_batch_above_the_set_is_refused(run, images):
    with pytest.raises(ConfigError, match="--batch-size 61: more than the 60 training images"):
        probe.probe(run, ProbeConfig(data=images, batch_size=61, device="cpu"))


def test_a_folder_without_an_encoder_is_named(tmp_path, images):
    with pytest.raises(ArtifactError, match=r"no encoder.json in it. Give a run folder"):
        probe.probe(tmp_path, ProbeConfig(data=images, device="cpu"))

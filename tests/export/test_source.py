"""What is exported: a run, a timm model or a weights file, and what each may be told."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from simclr.artifacts import EncoderInfo
from simclr.encoder import build_encoder, default_recipe, save_encoder, weights_sha256
from simclr.errors import ArtifactError, ConfigError
from simclr.export import export_model
from simclr.export.source import open_source, parse_channels
from simclr.preprocess import Recipe


def opened(
    source: object, notes: list[str] | None = None, **settings: Any
) -> tuple[nn.Module, EncoderInfo, Path]:
    plain: dict[str, Any] = dict(encoder=None, image_size=None, pretrained=True, mean=None, std=None)
    said = [] if notes is None else notes
    return open_source(str(source), note=said.append, **(plain | settings))


@pytest.fixture
def moco(tmp_path: Path) -> Path:
    """A MoCo checkpoint of test_resnet with both its networks."""
    state = {
        f"module.encoder_q.{name}": tensor
        for name, tensor in build_encoder("test_resnet").state_dict().items()
    }
    state |= {name.replace("_q", "_k"): tensor + 1 for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": state}, path := tmp_path / "moco.pth.tar")
    return path


# --- weights files -------------------------------------------------------------------------------


def test_a_weights_file_gives_its_encoder_and_says_where_it_was(moco: Path) -> None:
    notes: list[str] = []
    model, info, out = opened(moco, notes, encoder="test_resnet", image_size=96)
    state = torch.load(moco)["state_dict"]
    assert all(
        torch.equal(tensor, state[f"module.encoder_q.{name}"]) for name, tensor in model.state_dict().items()
    )
    total = len(model.state_dict())
    assert notes == [
        f"weights: {total} of {total} tensors of the encoder from moco.pth.tar, named state_dict: module.encoder_q.* there",
        "weights: the same network is also there as state_dict: module.encoder_k.*, left out",
        "preprocessing: 96 pixels, mean 0.5,0.5,0.5, std 0.5,0.5,0.5; the file does not say. "
        "Others with --image-size, --mean and --std.",
    ]
    assert info.parents == {
        "file": "moco.pth.tar", "wrapper": "state_dict", "prefix": "module.encoder_q."
    }  # fmt: skip
    assert info.weights_sha256 == weights_sha256(model.state_dict())
    assert not model.training
    assert out == moco.with_name("moco.pth") / "export"


def test_mean_and_standard_deviation_join_the_recipe_and_the_identity(moco: Path) -> None:
    _, plain, _ = opened(moco, encoder="test_resnet", image_size=96)
    notes: list[str] = []
    settings: dict[str, Any] = dict(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    _, info, _ = opened(moco, notes, encoder="test_resnet", image_size=96, **settings)
    recipe = default_recipe("test_resnet", image_size=96).to_dict() | settings
    assert info.recipe == Recipe(**recipe)
    assert info.identity != plain.identity
    assert not any(line.startswith("preprocessing") for line in notes)


def test_a_timm_model_takes_them_too() -> None:
    _, info, _ = opened("timm:test_resnet", pretrained=False, image_size=96, mean=(0.1, 0.2, 0.3))
    assert (info.recipe.mean, info.recipe.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("small", "size", "said"),
    [
        (True, 32, "stem: small, 3x3 with stride 1 and no max-pool, as its conv1 in the file"),
        (True, 224, "stem: small, 3x3 with stride 1 and no max-pool, as its conv1 in the file"),
        (False, 32, "stem: 7x7 with stride 2 and max-pool, as its conv1 in the file, though the images are small"),
        (False, 224, None),
    ],
)  # fmt: skip
def test_the_first_convolution_in_the_file_decides_the_stem(
    tmp_path: Path, small: bool, size: int, said: str | None
) -> None:
    net = build_encoder("resnet18", small_stem=small).eval()
    save_file({f"backbone.{name}": t for name, t in net.state_dict().items()}, path := tmp_path / "w.bin")
    notes: list[str] = []
    model, info, _ = opened(path, notes, encoder="resnet18", image_size=size)
    path.unlink()  # 45 MB
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), net(images))
    assert info.small_stem is small
    assert [line for line in notes if line.startswith("stem")] == ([said] if said else [])


def test_weights_of_a_wider_stem_are_of_another_architecture(tmp_path: Path) -> None:
    """A first convolution that is neither: 5x5."""
    state = build_encoder("resnet18").state_dict() | {"conv1.weight": torch.zeros(64, 3, 5, 5)}
    torch.save(state, path := tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match=r"conv1\.weight has another shape than \(64, 3, 7, 7\)"):
        opened(path, encoder="resnet18")
    path.unlink()


@pytest.mark.parametrize("text", ["0.5", "0.5,0.5", "0.5,0.5,0.5,0.5", "a,b,c", ""])
def test_three_numbers_are_asked_for(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_channels("--std", text)
    assert str(caught.value) == f"--std {text}: give three numbers in 0..1, such as 0.485,0.456,0.406."


def test_three_numbers_are_read() -> None:
    assert parse_channels("--mean", "0.5, 0.25,0") == (0.5, 0.25, 0.0)


# --- all three -----------------------------------------------------------------------------------


def test_an_unknown_timm_name_suggests_near_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^encoder 'resnet5O' is not a timm model\. Did you mean .*resnet50"
    ) as caught:
        export_model("timm:resnet5O", out=tmp_path / "export", pretrained=False)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(name: str, **keywords: object) -> nn.Module:
        if keywords.get("pretrained"):
            raise OSError("cannot reach the hub\nand thirty more lines")
        return create_model(name, **keywords)

    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", no_network)
    expected = (
        r"^timm:test_resnet: its pretrained weights cannot be loaded \(cannot reach the hub\)\. "
        r"Use --no-pretrained for random weights, or give a weights file\.$"
    )
    with pytest.raises(ArtifactError, match=expected):
        export_model("timm:test_resnet", out=tmp_path / "export", image_size=32)
    assert not (tmp_path / "export").exists()


def test_a_failure_without_words_is_named_by_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(name: str, **keywords: object) -> nn.Module:
        raise TimeoutError

    monkeypatch.setattr(timm, "create_model", silent)
    with pytest.raises(ArtifactError, match=r"cannot be loaded \(TimeoutError\)"):
        export_model("timm:test_resnet", out=tmp_path / "export", image_size=224)


def test_a_weights_file_without_its_encoder_asks_for_it(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "mine.pth")
    with pytest.raises(
        ConfigError,
        match=r"mine\.pth: a weights file does not say what it is for\. Name the timm model with --encoder\.$",
    ):
        export_model(tmp_path / "mine.pth")


def test_weights_of_another_encoder_are_refused_by_an_example(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1, 1, 1, 1)}, tmp_path / "mine.pth")
    with pytest.raises(
        ArtifactError, match=r"mine\.pth: weights of another architecture \(0 of \d+ .*is missing"
    ):
        export_model(tmp_path / "mine.pth", encoder="test_resnet", image_size=96)


def test_a_weights_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    torch.save({"weight": Path("somewhere")}, tmp_path / "mine.pth")
    with pytest.raises(ArtifactError, match=r"mine\.pth: holds Python objects besides tensors \(pathlib\."):
        export_model(tmp_path / "mine.pth", encoder="test_resnet", image_size=96)


def test_a_missing_source_suggests_the_timm_prefix() -> None:
    with pytest.raises(
        ArtifactError,
        match=r"^resnet18: no such run folder or weights file\. For a timm model write timm:resnet18\.$",
    ):
        export_model("resnet18")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"^{tmp_path}: holds no encoder"):
        export_model(tmp_path)


@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        ({"encoder": "resnet18", "image_size": 64}, "--encoder and --image-size"),
        ({"mean": (0.5, 0.5, 0.5)}, "--mean"),
        ({"std": (0.5, 0.5, 0.5)}, "--std"),
    ],
)
def test_a_run_knows_its_encoder_and_its_preprocessing(
    tmp_path: Path, keywords: dict[str, Any], options: str
) -> None:
    (tmp_path / "encoder.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        export_model(tmp_path, **keywords)
    assert str(caught.value) == (
        f"{tmp_path}: a run knows its encoder and its preprocessing. Leave out {options}."
    )


def test_a_run_whose_weights_were_exchanged_is_refused(tmp_path: Path) -> None:
    model = build_encoder("test_resnet")
    info = EncoderInfo(
        name="test_resnet", small_stem=False, width=256, weights_sha256="0" * 64, recipe=Recipe(size=32)
    )
    save_encoder(tmp_path, model, info)
    with pytest.raises(ArtifactError, match=r"encoder\.safetensors: does not match encoder\.json"):
        export_model(tmp_path)

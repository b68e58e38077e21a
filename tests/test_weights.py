"""Weights of another training: each library's own naming gives its network's features; the rest is listed."""

import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from simclr import weights as weights_module
from simclr.artifacts import EncoderInfo
from simclr.encoder import build_encoder, save_encoder, weights_sha256
from simclr.errors import ArtifactError
from simclr.preprocess import Recipe
from simclr.weights import find_encoder, load_whole, start_from
from simclr.weights_file import read_weights

NAME = "test_resnet"


def encoder(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_encoder(NAME)


def written(tmp_path: Path, state: dict[str, Tensor], name: str = "w.safetensors") -> str:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_of_the_same_encoder_all_fit(tmp_path, name):
    source, target = encoder(1), encoder(2)
    path = written(tmp_path, source.state_dict(), name)
    fit = start_from(target, path)
    total = len(source.state_dict())
    assert fit.lines(path) == [f"weights: {total} of {total} tensors of the encoder from {path}"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("prefix", ["backbone.", "module.encoder.", "encoder."])
def test_a_prefix_is_seen_through(tmp_path, prefix):
    """As lightly, solo-learn, DistributedDataParallel and our own checkpoints have; the head beside it is left out."""
    source, target = encoder(1), encoder(2)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    fit = start_from(target, written(tmp_path, state | {"head.0.weight": torch.ones(3)}))
    assert (fit.missing, fit.misshapen, fit.unexpected) == ((), (), ("head.0.weight",))
    assert torch.equal(target.conv1[0].weight, source.conv1[0].weight)


def test_missing_misshapen_and_unexpected_tensors_are_listed_and_left(tmp_path):
    source, target = encoder(1), encoder(2)
    state = dict(source.state_dict())
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    del state["bn1.weight"]
    state["conv1.0.weight"] = torch.ones(1, 2, 3, 3)
    state["fc.weight"] = torch.ones(10, 96)
    path = written(tmp_path, state)
    fit = start_from(target, path)
    total = len(before)
    assert fit.lines(path) == [
        f"weights: {total - 2} of {total} tensors of the encoder from {path}",
        "weights: 1 missing there, so they start random: bn1.weight",
        "weights: 1 of another shape there, so they start random: conv1.0.weight",
        "weights: 1 unexpected, so left out: fc.weight",
    ]
    assert torch.equal(target.state_dict()["bn1.weight"], before["bn1.weight"])
    assert torch.equal(target.state_dict()["conv1.0.weight"], before["conv1.0.weight"])
    assert torch.equal(target.state_dict()["bn1.bias"], source.state_dict()["bn1.bias"])


def test_long_lists_are_cut_and_counted(tmp_path):
    state = encoder(1).state_dict() | {f"head.{i}": torch.ones(1) for i in range(20)}
    path = written(tmp_path, state)
    named = ", ".join(sorted(f"head.{i}" for i in range(20))[:8])
    assert start_from(encoder(2), path).lines(path)[1] == (
        f"weights: 20 unexpected, so left out: {named} and 12 more"
    )


def test_starting_from_another_architecture_is_refused(tmp_path):
    target = encoder(2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    counted = sum("num_batches" not in name for name in before)
    path = written(tmp_path, build_encoder("test_vit").state_dict())
    with pytest.raises(ArtifactError) as error:
        start_from(target, path)
    assert str(error.value).startswith(
        f"{path}: weights of another architecture (0 of {counted} tensors fit; "
    )
    assert str(error.value).endswith(
        " Name theirs with --encoder; docs/weights.md has the namings that are known."
    )
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_pretrained_timm_model_is_asked_for_its_weights(monkeypatch):
    """The download is timm's; that it is asked for, and with which name, is ours."""
    asked: list[tuple[str, bool]] = []

    def build(name: str, *, pretrained: bool = False) -> nn.Module:
        asked.append((name, pretrained))
        return encoder(1)

    monkeypatch.setattr(weights_module, "build_encoder", build)
    target = encoder(2)
    fit = start_from(target, "timm:test_resnet.r160_in1k")
    assert asked == [("test_resnet.r160_in1k", True)]
    assert fit.missing == fit.unexpected == ()
    assert torch.equal(target.conv1[0].weight, encoder(1).conv1[0].weight)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError) as error:
        start_from(encoder(), str(tmp_path / "none.pt"))
    assert str(error.value) == f"{tmp_path / 'none.pt'}: no such file."


def test_a_run_folder_stands_for_its_encoder(tmp_path):
    source, target = encoder(1), encoder(2)
    digest = weights_sha256(source.state_dict())
    info = EncoderInfo(name=NAME, small_stem=False, width=96, weights_sha256=digest, recipe=Recipe(size=32))
    save_encoder(tmp_path, source, info)
    start_from(target, str(tmp_path))
    assert weights_sha256(target.state_dict()) == digest


# ---- each library's own naming


def small_resnet(seed: int, **settings: Any) -> nn.Module:
    """A ResNet named and ordered as torchvision's, small, in eval mode, its running statistics used."""
    torch.manual_seed(seed)
    model = ResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 8, 16, 16), **({"num_classes": 0} | settings))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def head(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}0.weight": torch.ones(16, 16), f"{prefix}0.bias": torch.ones(16)}


def in_sequence(model: nn.Module) -> dict[str, Tensor]:
    """`nn.Sequential(*list(resnet.children())[:-1])`, as lightly's examples build a backbone."""
    return nn.Sequential(*list(model.children())[:-1]).state_dict()


def like_lightlys_resnet(model: nn.Module) -> dict[str, Tensor]:
    """lightly.models.ResNetGenerator: no module for ReLU and max-pool; its blocks have a shortcut."""
    parts = [child for child in model.children() if child.state_dict()]
    state = nn.Sequential(*parts).state_dict()
    return {name.replace("downsample", "shortcut"): tensor for name, tensor in state.items()}


State = dict[str, Tensor]
LIBRARIES: dict[str, tuple[Callable[[nn.Module, nn.Module], Any], tuple[str, str, str]]] = {
    "torchvision": (lambda net, _: net.state_dict() | head("fc."), ("", "", "")),
    "timm's train.py": (
        lambda net, copy: {
            "epoch": 3, "arch": "x", "state_dict": net.state_dict(), "args": Namespace(lr=0.1, opt="sgd"),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
            "state_dict_ema": copy.state_dict(),
        },
        ("state_dict", "", ""),
    ),
    "torch.compile": (lambda net, _: {"model": under("_orig_mod.", net.state_dict())}, ("model", "_orig_mod.", "")),
    "MoCo v1 and v2": (
        lambda net, copy: {
            "epoch": 200, "arch": "resnet50",
            "state_dict": under("module.encoder_k.", copy.state_dict() | head("fc."))
            | under("module.encoder_q.", net.state_dict() | head("fc."))
            | {"module.queue": torch.ones(16, 32), "module.queue_ptr": torch.zeros(1)},
            "optimizer": {"state": {}, "param_groups": []},
        },
        ("state_dict", "module.encoder_q.", ""),
    ),
    "MoCo v3": (
        lambda net, copy: {
            "state_dict": under("module.momentum_encoder.", copy.state_dict()) | under("module.base_encoder.", net.state_dict())
            | head("module.predictor."),
        },
        ("state_dict", "module.base_encoder.", ""),
    ),
    "SimSiam": (
        lambda net, _: {"state_dict": under("module.encoder.", net.state_dict() | head("fc.")) | head("module.predictor.")},
        ("state_dict", "module.encoder.", ""),
    ),
    "SwAV": (
        lambda net, _: under("module.", net.state_dict() | head("projection_head.") | head("prototypes.")),
        ("", "module.", ""),
    ),
    "DINO, whole": (
        lambda net, copy: {
            "student": under("module.backbone.", copy.state_dict()) | head("module.head."),
            "teacher": under("backbone.", net.state_dict()) | head("head."),
            "args": Namespace(arch="resnet50", warmup_epochs=10), "epoch": 3, "dino_loss": {"center": torch.ones(1, 8)},
        },
        ("teacher", "backbone.", ""),
    ),
    "BYOL in plain PyTorch": (
        lambda net, copy: {
            "target_network_state_dict": under("encoder.", copy.state_dict()),
            "online_network_state_dict": under("encoder.", net.state_dict()),
        },
        ("online_network_state_dict", "encoder.", ""),
    ),
    "solo-learn": (
        lambda net, copy: {
            "state_dict": under("momentum_backbone.", copy.state_dict()) | under("backbone.", net.state_dict())
            | head("projector.") | head("classifier.") | head("momentum_projector."),
            "epoch": 3, "hyper_parameters": {"lr": 0.3},
        },
        ("state_dict", "backbone.", ""),
    ),
    "lightly": (
        lambda net, _: under("backbone.", in_sequence(net)) | head("projection_head.layers."),
        ("", "backbone.", "parts by number"),
    ),
    "lightly's MoCo": (
        lambda net, copy: {
            "state_dict": under("backbone_momentum.", in_sequence(copy)) | under("backbone.", in_sequence(net))
        },
        ("state_dict", "backbone.", "parts by number"),
    ),
    "lightly's DINO": (
        lambda net, copy: under("teacher_backbone.", in_sequence(copy)) | under("student_backbone.", in_sequence(net)),
        ("", "student_backbone.", "parts by number"),
    ),
    "lightly's ResNet": (
        lambda net, _: under("backbone.", like_lightlys_resnet(net)),
        ("", "backbone.", "weighted parts by number, shortcut for downsample"),
    ),
    "VISSL": (
        lambda net, _: {
            "phase": 3,
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", net.state_dict()), "heads": head("0.clf.")}},
                "optimizer": {"state": {}},
            },
        },
        ("classy_state_dict.base_model.model.trunk", "_feature_blocks.", ""),
    ),
    "mmpretrain": (
        lambda net, _: {
            "meta": {"epoch": 200}, "optimizer": {},
            "state_dict": {"data_preprocessor.mean": torch.ones(3, 1, 1)} | under("backbone.", net.state_dict())
            | head("neck.") | head("head.fc."),
        },
        ("state_dict", "backbone.", ""),
    ),
    "mmselfsup's MoCo": (
        lambda net, copy: {
            "state_dict": under("encoder_k.0.", copy.state_dict()) | under("encoder_q.0.", net.state_dict())
            | head("encoder_q.1.mlp."),
        },
        ("state_dict", "encoder_q.0.", ""),
    ),
}  # fmt: skip


def check_same_features(target: nn.Module, net: nn.Module, size: int = 32) -> None:
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(target.eval()(images), net(images))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_checkpoint_in_a_librarys_own_naming_gives_its_networks_features(tmp_path, library):
    """Copies that follow the network have other values, and come first in the file."""
    content, place = LIBRARIES[library]
    net, copy, target = small_resnet(1), small_resnet(2), small_resnet(3)
    torch.save(content(net, copy), path := tmp_path / "w.pth")
    fit = find_encoder(target, read_weights(path))
    assert (fit.wrapper, fit.prefix, fit.naming) == place
    load_whole(target, fit, str(path))
    check_same_features(target, net)


def test_torchvisions_own_resnet_gives_the_features_of_timms():
    torch.manual_seed(0)
    net = torchvision.models.resnet18().eval()
    target = build_encoder("resnet18")
    fit = find_encoder(target, {"": net.state_dict()})
    assert fit.unexpected == ("fc.weight", "fc.bias")
    load_whole(target, fit, "w")
    numbered = build_encoder("resnet18")
    load_whole(numbered, find_encoder(numbered, {"": under("backbone.", in_sequence(net))}), "w")
    net.fc = nn.Identity()
    check_same_features(target, net)
    check_same_features(numbered, net)


def test_torchvisions_vit_gives_its_features_though_all_its_names_differ():
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=5
    ).eval()
    nn.init.normal_(net.class_token)
    target = VisionTransformer(
        img_size=32, patch_size=16, depth=2, num_heads=3, embed_dim=48, mlp_ratio=2, num_classes=0
    )
    fit = find_encoder(target, {"": net.state_dict()})
    assert (fit.naming, fit.unexpected) == ("torchvision's ViT", ("heads.head.weight", "heads.head.bias"))
    load_whole(target, fit, "w")
    net.heads = nn.Identity()
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(target.eval()(images), net(images), atol=1e-5)


def test_a_dino_vit_has_timms_names(tmp_path):
    """facebookresearch/dino, dino_deitsmall16_pretrain.pth: the bare backbone."""
    torch.manual_seed(0)
    net, target = (
        VisionTransformer(img_size=32, depth=1, num_heads=2, embed_dim=16, num_classes=0).eval() for _ in "ab"
    )
    load_whole(target, find_encoder(target, {"": net.state_dict()}), "w")
    check_same_features(target, net)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.safetensors", "weights"])
def test_a_safetensors_file_is_known_by_its_content(tmp_path, name):
    net, target = small_resnet(1), small_resnet(2)
    save_file(net.state_dict(), tmp_path / name)
    start_from(target, str(tmp_path / name))
    check_same_features(target, net)


def test_a_torch_file_of_before_1_6_is_read(tmp_path):
    net, target = small_resnet(1), small_resnet(2)
    torch.save(net.state_dict(), path := tmp_path / "w.tar", _use_new_zipfile_serialization=False)
    start_from(target, str(path))
    check_same_features(target, net)


def test_counts_of_batches_that_old_files_lack_are_not_missing():
    net, target = small_resnet(1), small_resnet(2)
    state = {name: tensor for name, tensor in net.state_dict().items() if "num_batches" not in name}
    load_whole(target, find_encoder(target, {"": state}), "w")
    check_same_features(target, net)


def test_half_precision_becomes_float32():
    net, target = small_resnet(1), small_resnet(2)
    load_whole(target, find_encoder(target, {"": net.half().state_dict()}), "w")
    assert {tensor.dtype for tensor in target.parameters()} == {torch.float32}
    check_same_features(target, net.float())


def test_what_was_taken_and_what_was_left_is_said(tmp_path):
    content, _ = LIBRARIES["MoCo v1 and v2"]
    torch.save(content(small_resnet(1), small_resnet(2)), path := tmp_path / "moco.pth")
    target = small_resnet(3)
    total = len(target.state_dict())
    assert start_from(target, str(path)).lines("moco.pth") == [
        f"weights: {total} of {total} tensors of the encoder from moco.pth, named state_dict: module.encoder_q.* there",
        "weights: 6 unexpected, so left out: module.encoder_k.fc.0.weight, module.encoder_k.fc.0.bias, "
        "module.encoder_q.fc.0.weight, module.encoder_q.fc.0.bias, module.queue, module.queue_ptr",
        "weights: the same network is also there as state_dict: module.encoder_k.*, left out",
    ]


# ---- what is refused


def refused(path: Path, target: nn.Module | None = None) -> str:
    """The message, one line; the encoder stays as it was."""
    target = target or small_resnet(3)
    before = weights_sha256(target.state_dict())
    with pytest.raises(ArtifactError) as error:
        load_whole(target, find_encoder(target, read_weights(path)), str(path))
    assert weights_sha256(target.state_dict()) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_with_a_head_only_is_called_so(tmp_path):
    torch.save({"state_dict": head("projector.") | head("classifier.")}, path := tmp_path / "w.pth")
    words = f"{path}: holds a projection head only (projector.0.weight, projector.0.bias and 2 more): no encoder. Give the file with the backbone's weights."
    assert refused(path) == words
    with pytest.raises(ArtifactError) as error:
        start_from(small_resnet(3), str(path))
    assert str(error.value) == words


def test_weights_of_another_architecture_are_refused_with_examples(tmp_path):
    target = small_resnet(3)
    state = target.state_dict()
    state["bn1.weight"] = torch.ones(7)
    del state["layer1.0.conv1.weight"], state["layer2.0.conv1.weight"], state["layer3.0.conv1.weight"]
    torch.save(state, path := tmp_path / "w.pt")
    total = len(target.state_dict())
    assert refused(path, target) == (
        f"{path}: weights of another architecture ({total - 4} of {total} tensors fit; bn1.weight has another shape than (64,), "
        "layer1.0.conv1.weight is missing and 2 more). Name theirs with --encoder; docs/weights.md has the namings that are known."
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("truncated", "its end is missing"),
        ("empty", "it is empty"),
        ("pointer", "it begins with b'version https://'"),
    ],
)
def test_a_damaged_file_is_refused_and_named(tmp_path, damage, words):
    torch.save(small_resnet(1).state_dict(), path := tmp_path / "w.pth")
    content = path.read_bytes()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    path.write_bytes({"truncated": content[:-1000], "empty": b"", "pointer": pointer}[damage])
    assert refused(path) == f"{path}: damaged, or no weights file ({words})."


@pytest.mark.parametrize("kind", ["safetensors", "torch of before 1.6"])
def test_other_files_that_end_early_are_refused_and_named(tmp_path, kind):
    state, path = small_resnet(1).state_dict(), tmp_path / "w"
    save_file(state, path) if kind == "safetensors" else torch.save(
        state, path, _use_new_zipfile_serialization=False
    )
    path.write_bytes(path.read_bytes()[:-1000])
    assert refused(path).startswith(f"{path}: damaged, or no weights file (")


class RunsCode:
    """Its reading would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("new", [True, False])
def test_a_file_that_would_run_code_is_not_run_and_the_object_named(tmp_path, new):
    content = {"state_dict": small_resnet(1).state_dict(), "args": RunsCode(tmp_path / "ran")}
    torch.save(content, path := tmp_path / "w.pth", _use_new_zipfile_serialization=new)
    words = f"{path}: holds Python objects besides tensors (exec), and reading those could run code. If you trust it, "
    assert refused(path).startswith(words)
    assert not (tmp_path / "ran").exists()


def test_the_command_that_keeps_the_tensors_alone_does(tmp_path):
    """Path stands for a class that only another library has: omegaconf in solo-learn, numpy in mmengine."""
    net, target = small_resnet(1), small_resnet(2)
    content = {
        "state_dict": under("backbone.", net.state_dict()),
        "hyper_parameters": {"data": Path("x")},
        "epoch": 3,
    }
    torch.save(content, path := tmp_path / "it's.ckpt")
    _, _, command = refused(path).partition("where its library is installed: ")
    command = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    start_from(target, str(tmp_path / "tensors.pth"))
    check_same_features(target, net)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(3)], torch.ones(3)])
def test_a_torch_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, path := tmp_path / "w.pt")
    assert refused(path) == f"{path}: holds no tensors by name."


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    assert refused(tmp_path) == f"{tmp_path / 'encoder.safetensors'}: no such file."


def test_weights_of_a_deeper_network_are_not_taken_for_a_shallower_one(tmp_path):
    from simclr.encoder import build_encoder
    from simclr.export import export_model

    torch.save(build_encoder("resnet26").state_dict(), tmp_path / "deep.pth")
    with pytest.raises(ArtifactError, match=r"deep\.pth: weights of a(nother| larger) architecture"):
        export_model(tmp_path / "deep.pth", encoder="resnet50", image_size=32, out=tmp_path / "e")
    torch.save(build_encoder("resnet34").state_dict(), tmp_path / "deep.pth")
    with pytest.raises(
        ArtifactError,
        match=r"deep\.pth: weights of a larger architecture \(it has more of the same kind, such as ",
    ):
        export_model(tmp_path / "deep.pth", encoder="resnet18", image_size=32, out=tmp_path / "e")

"""Starting from weights: what fits is loaded, the rest is listed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from simclr.encoder import build_encoder
from simclr.errors import ArtifactError
from simclr.pretrain import weights as weights_module
from simclr.pretrain.weights import start_from

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


def test_weights_of_another_architecture_are_refused(tmp_path):
    target = encoder(2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    path = written(tmp_path, build_encoder("test_vit").state_dict())
    with pytest.raises(ArtifactError) as error:
        start_from(target, path)
    assert str(error.value).startswith(
        f"{path}: weights of another architecture (0 of {len(before)} tensors fit; "
    )
    assert str(error.value).endswith(" Name theirs with --encoder.")
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

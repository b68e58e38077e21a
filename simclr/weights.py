"""Weights of another training -> an encoder: a timm model's, or a file's in whatever naming its library uses.

No table of libraries: every place in the file where names end like the encoder's is tried, and the one where most tensors
fit is taken. Says what was taken and what was not. Reading the file is the business of weights_file.py.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from simclr.encoder import build_encoder
from simclr.errors import ArtifactError
from simclr.weights_file import State, read_weights

TIMM = "timm:"
_NAMED = 8
"""Names listed before the rest is only counted."""
_COPIES = {"teacher", "momentum", "ema", "target", "k", "key", "average", "averaged"}
"""Words in names of a network that only follows the one that is trained."""
_TORCHVISION_VIT = (
    ("cls_token", "class_token"),
    ("pos_embed", "encoder.pos_embedding"),
    ("patch_embed.proj.", "conv_proj."),
    (r"blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.attn\.qkv\.", ".self_attention.in_proj_"),
    (r"\.attn\.proj\.", ".self_attention.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^norm\.", "encoder.ln."),
)
"""timm's names -> torchvision's, for the one architecture where the two do not agree (torchvision, vision_transformer.py)."""


@dataclass(frozen=True)
class Fit:
    """How weights fitted an encoder; names are the encoder's, or for `unexpected` and below the file's."""

    tensors: dict[str, Tensor]
    """What fits, by the encoder's names."""
    missing: tuple[str, ...] = ()
    """Not in the weights. A count of batches that old files lack is not missing: nothing is computed from it."""
    misshapen: tuple[str, ...] = ()
    """Of another shape there."""
    unexpected: tuple[str, ...] = ()
    """Left out: the encoder has nothing of that name."""
    wrapper: str = ""
    """Keys of the dictionaries around the tensors, as `state_dict`."""
    prefix: str = ""
    """What stands before the encoder's names, as `module.encoder_q.`."""
    naming: str = ""
    """How the names are spelt, where not as timm does."""
    copies: tuple[str, ...] = ()
    """Where the same encoder was found again, as a momentum copy, and left aside."""
    head: tuple[str, ...] = ()
    """Names of the file, if it has a matrix but no convolution anywhere, with which every image encoder begins."""

    def lines(self, source: str) -> list[str]:
        """Sentences for the person at the keyboard."""
        total = len(self.tensors) + len(self.missing) + len(self.misshapen)
        where = f", named {_place(self.wrapper, self.prefix)} there" if self.wrapper or self.prefix else ""
        naming = f", {self.naming}" if self.naming else ""
        said = [
            f"weights: {len(self.tensors)} of {total} tensors of the encoder from {source}{where}{naming}"
        ]
        for names, words in (
            (self.missing, "missing there, so they start random"),
            (self.misshapen, "of another shape there, so they start random"),
            (self.unexpected, "unexpected, so left out"),
        ):
            if names:
                said.append(f"weights: {len(names)} {words}: {_some(names)}")
        if self.copies:
            said.append(f"weights: the same network is also there as {_some(self.copies)}, left out")
        return said


def start_from(encoder: nn.Module, source: str) -> Fit:
    """Fill `encoder` with what fits of `source`: `timm:NAME` (pretrained), a run folder, or a file; the rest stays.

    Raises ArtifactError if the source cannot be read, or fewer than half of the encoder's tensors are in it.
    """
    if source.startswith(TIMM):
        name = source.removeprefix(TIMM)
        contents: dict[str, State] = {"": build_encoder(name, pretrained=True).state_dict()}
    else:
        contents = read_weights(Path(source))
    fit = find_encoder(encoder, contents)
    counted = [name for name in fit.tensors if _counts(name)]
    if len(counted) < len(fit.missing) + len(fit.misshapen):
        raise _refusal(source, encoder, fit)
    _fill(encoder, fit)
    return fit


def load_whole(encoder: nn.Module, fit: Fit, source: str) -> None:
    """Fill `encoder` with weights that have every one of its tensors; raises ArtifactError if they have not."""
    if fit.missing or fit.misshapen:
        raise _refusal(source, encoder, fit)
    own = {_any_number(name) for name in encoder.state_dict()}
    inside = [name.removeprefix(fit.prefix) for name in fit.unexpected if name.startswith(fit.prefix)]
    if deeper := [name for name in inside if _any_number(name) in own]:
        raise ArtifactError(
            f"{source}: weights of a larger architecture (it has more of the same kind, such as {_some(tuple(deeper), 2)}). "
            "Name theirs with --encoder."
        )
    _fill(encoder, fit)


def _any_number(name: str) -> str:
    """`layer1.2.conv1` and `layer1.0.conv1` are of one kind."""
    return re.sub(r"\d+", "#", name)


@torch.no_grad()
def _fill(encoder: nn.Module, fit: Fit) -> None:
    own = encoder.state_dict()
    for name, tensor in fit.tensors.items():
        own[name].copy_(tensor)


def _refusal(source: str, encoder: nn.Module, fit: Fit) -> ArtifactError:
    """Why weights that do not fit are not taken, with examples."""
    if fit.head:
        return ArtifactError(
            f"{source}: holds a projection head only ({_some(fit.head, 2)}): no encoder. "
            "Give the file with the backbone's weights."
        )
    own = encoder.state_dict()
    total = len(fit.tensors) + len(fit.missing) + len(fit.misshapen)
    wrong = [f"{name} has another shape than {tuple(own[name].shape)}" for name in fit.misshapen]
    wrong += [f"{name} is missing" for name in fit.missing]
    return ArtifactError(
        f"{source}: weights of another architecture ({len(fit.tensors)} of {total} tensors fit; {_some(wrong, 2)}). "
        "Name theirs with --encoder; docs/weights.md has the namings that are known."
    )


def find_encoder(encoder: nn.Module, contents: Mapping[str, State]) -> Fit:
    """Where most tensors fit in name and shape; among equals the trained network rather than one that follows it.

    DINO is the exception: its teacher is what its authors evaluate and publish (facebookresearch/dino, --checkpoint_key).
    Pure: the encoder is left as it is.
    """
    own = encoder.state_dict()
    spellings = list(_spellings(encoder))
    fits: dict[tuple[str, str, str], int] = {}
    for wrapper, state in contents.items():
        for naming, theirs in spellings:
            counts = Counter(
                prefix
                for name, tensor in state.items()
                for prefix, rest in _cuts(name)
                if rest in theirs and own[theirs[rest]].shape == tensor.shape and _counts(rest)
            )
            fits |= {(wrapper, prefix, naming): count for prefix, count in counts.items()}
    if not fits:
        largest = max(contents, key=lambda wrapper: len(contents[wrapper]))
        fits[largest, "", ""] = 0
    most = max(fits.values())
    equals = sorted((place for place in fits if fits[place] == most), key=_rank)
    wrapper, prefix, naming = equals[0]
    twins = [place for place in equals[1:] if place[:2] != (wrapper, prefix)] if most else []
    spelt = dict(spellings)

    state = contents[wrapper]
    found = {mine: state[prefix + name] for name, mine in spelt[naming].items() if prefix + name in state}
    used = {prefix + name for name in spelt[naming]}
    used |= {twin + name for where, twin, how in twins if where == wrapper for name in spelt[how]}
    dimensions = max(tensor.ndim for tensors in contents.values() for tensor in tensors.values())
    return Fit(
        tensors={name: tensor for name, tensor in found.items() if tensor.shape == own[name].shape},
        missing=tuple(name for name in own if name not in found and _counts(name)),
        misshapen=tuple(name for name in found if found[name].shape != own[name].shape),
        unexpected=tuple(name for name in state if name not in used),
        wrapper=wrapper,
        prefix=prefix,
        naming=naming,
        copies=tuple(_place(where, twin) for where, twin, _ in twins),
        head=tuple(state) if dimensions == 2 else (),
    )


def _spellings(encoder: nn.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """Each way to spell the encoder's names, with words for it ("" is timm's): their name -> ours."""
    own = list(encoder.state_dict())
    children = dict(encoder.named_children())
    plain = {name: name for name in own}
    # `nn.Sequential(*list(resnet.children())[:-1])`, as in lightly's examples, has numbers for the names of its parts.
    # lightly's own ResNet has no modules for ReLU and max-pool, and says shortcut for downsample.
    by_number = _numbered(own, list(children))
    weighted = _numbered(own, [name for name, child in children.items() if child.state_dict()])
    numberings = {"": plain, "parts by number": by_number, "weighted parts by number": weighted}
    yield from numberings.items()
    for words, theirs in numberings.items():
        spelt = {name.replace(".downsample.", ".shortcut."): mine for name, mine in theirs.items()}
        if spelt != theirs:
            yield f"{words}, shortcut for downsample".removeprefix(", "), spelt
    if "cls_token" in plain:
        yield "torchvision's ViT", {_torchvision_vit(name): name for name in own}


def _numbered(own: list[str], parts: list[str]) -> dict[str, str]:
    """`layer1.0.conv1.weight` -> `4.0.conv1.weight`, where layer1 is part 4."""
    split = [name.partition(".") for name in own]
    return {f"{parts.index(part)}.{rest}": f"{part}.{rest}" for part, _, rest in split if part in parts}


def _torchvision_vit(name: str) -> str:
    for pattern, replacement in _TORCHVISION_VIT:
        name = re.sub(pattern, replacement, name)
    return name


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """Prefix and rest at every dot: ("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    yield "", name
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _rank(place: tuple[str, str, str]) -> tuple[int, int]:
    wrapper, prefix, _ = place
    follows = not _COPIES.isdisjoint(re.split(r"[._]", f"{wrapper}.{prefix}"))
    return (0 if wrapper == "teacher" else 1 + follows), len(prefix)


def _counts(name: str) -> bool:
    """Whether features depend on a tensor; the number of batches seen is absent in files of before PyTorch 0.4.1."""
    return not name.endswith("num_batches_tracked")


def _place(wrapper: str, prefix: str) -> str:
    return f"{wrapper}: {prefix}*" if wrapper else f"{prefix}*"


def _some(names: Sequence[str], most: int = _NAMED) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

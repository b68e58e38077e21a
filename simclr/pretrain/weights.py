"""Start an encoder from weights of another training: a timm model's, or a file's. Says what fitted and what did not."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from simclr.encoder import build_encoder, read_weights
from simclr.errors import ArtifactError

TIMM = "timm:"
_NAMED = 8
"""Names listed before the rest is only counted."""


@dataclass(frozen=True)
class Fit:
    """How weights fitted an encoder; names are the encoder's, or for `unexpected` the file's."""

    loaded: int
    missing: tuple[str, ...]
    """Not in the weights: they stay random."""
    misshapen: tuple[str, ...]
    """Of another shape there: they stay random."""
    unexpected: tuple[str, ...]
    """Left out: the encoder has nothing of that name."""

    def lines(self, source: str) -> list[str]:
        """Sentences for the person at the keyboard."""
        total = self.loaded + len(self.missing) + len(self.misshapen)
        said = [f"weights: {self.loaded} of {total} tensors of the encoder from {source}"]
        for names, words in (
            (self.missing, "missing there, so they start random"),
            (self.misshapen, "of another shape there, so they start random"),
            (self.unexpected, "unexpected, so left out"),
        ):
            if names:
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                said.append(f"weights: {len(names)} {words}: {', '.join(names[:_NAMED])}{more}")
        return said


def start_from(encoder: nn.Module, source: str) -> Fit:
    """Fill `encoder` with the weights of `source`: `timm:NAME` (pretrained) or a file.

    A prefix that all names in the file share with the encoder's (`backbone.`, `module.encoder.`) is seen through. Raises
    ArtifactError if the source cannot be read, or fewer than half of the encoder's tensors are in it.
    """
    if source.startswith(TIMM):
        state = build_encoder(source.removeprefix(TIMM), pretrained=True).state_dict()
    else:
        state = read_weights(Path(source))
    own = encoder.state_dict()
    prefix = _prefix(own, state)
    found = {name: state[prefix + name] for name in own if prefix + name in state}
    fitting = {name: tensor for name, tensor in found.items() if tensor.shape == own[name].shape}
    fit = Fit(
        loaded=len(fitting),
        missing=tuple(name for name in own if name not in found),
        misshapen=tuple(name for name in found if name not in fitting),
        unexpected=tuple(
            name for name in state if name.removeprefix(prefix) not in found or not name.startswith(prefix)
        ),
    )
    if 2 * len(fitting) < len(own):
        example = (*fit.misshapen, *fit.missing)[0]
        raise ArtifactError(
            f"{source}: weights of another architecture ({len(fitting)} of {len(own)} tensors fit; {example} does not). "
            "Name theirs with --encoder."
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)
    return fit


def _prefix(own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What the names of `state` have in front of the encoder's, where most of them agree."""
    first = next(iter(own))
    candidates = {name.removesuffix(first) for name in state if name.endswith(first)} | {""}
    return max(sorted(candidates), key=lambda prefix: sum(prefix + name in state for name in own))

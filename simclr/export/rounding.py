"""What a 16-bit format makes of an encoder, found on any CPU: round after every operation.

ONNX Runtime's CPU provider computes fp16 graphs in fp32 and has no kernels for bf16. What a GPU will do to the
neighbours, overflow included, shows neither way. Here each operation runs in fp32 and its result is rounded to the
format, as the tensor cores do, which add up in fp32 and write 16 bits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from simclr.preprocess import Recipe

_BATCH = 16


class _Rounding(TorchDispatchMode):
    """Every float32 result of an operation is rounded to `dtype`, also where it is written in place."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:  # the same numbers, and a copy would no longer be a view
            return result
        if func._schema.is_mutable:
            return tree_map(
                lambda value: value.copy_(self._round(value)) if _is_float(value) else value, result
            )
        return tree_map(lambda value: self._round(value) if _is_float(value) else value, result)

    def _round(self, value: Tensor) -> Tensor:
        return value.to(self.dtype).to(torch.float32)


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32


def rounded(
    encoder: nn.Module, recipe: Recipe, dtype: torch.dtype
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The encoder as it computes in `dtype`: (N, size, size, 3) uint8 -> (N, width) float32 of unit length.

    `encoder` takes normalised float32 and is left as found. Normalisation before it and length after it stay fp32, as
    in the exported graph.
    """
    mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
    narrow = {name: tensor.to(dtype).to(tensor.dtype) if tensor.is_floating_point() else tensor
              for name, tensor in encoder.state_dict().items()}  # fmt: skip

    @torch.inference_mode()
    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = []
        for i in range(0, len(pixels), _BATCH):
            x = (torch.from_numpy(pixels[i : i + _BATCH]) / 255 - mean) / std
            x = x.permute(0, 3, 1, 2).contiguous().to(dtype).to(torch.float32)
            with _Rounding(dtype):
                z = torch.func.functional_call(encoder, narrow, (x,))
            parts.append(nn.functional.normalize(z, dim=1))
        return torch.cat(parts).numpy()

    return embed

"""The graph that is exported: uint8 NHWC RGB in, unit-length float32 out.

Shape letters: N = images, H, W, C, D = embedding width.

Normalisation is inside, so that nobody can apply it twice or not at all. The cast comes before the transpose,
which NVIDIA's parser refuses on uint8, and `.contiguous()` keeps timm's global pooling free of `as_strided`.
"""

import copy
from collections import Counter

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class EncoderGraph(nn.Module):
    """images (N, H, W, C) uint8 -> embedding (N, D) float32 of unit length.

    The encoder computes in `dtype`. Batch norms are folded in float32 before its weights are narrowed: that halves the
    error of fp16, and the exporter's own folding writes float32 weights into bf16 convolutions. Normalisation before and
    length after it stay float32, where nothing overflows.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        folded = fold_bn(encoder.eval())
        self.encoder = folded if dtype == torch.float32 else copy.deepcopy(folded).to(dtype)
        self.dtype = dtype
        mean_C, std_C = torch.tensor(mean) * 255, torch.tensor(std) * 255
        self.register_buffer("scale", (1 / std_C).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean_C / std_C).view(1, 3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        assert isinstance(self.scale, Tensor) and isinstance(self.shift, Tensor)
        x = images.to(torch.float32).permute(0, 3, 1, 2).contiguous()
        z = self.encoder((x * self.scale + self.shift).to(self.dtype)).to(torch.float32)
        # not F.normalize, which exports an Expand
        unit: Tensor = z / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp_min(1e-12)
        return unit


def fold_bn(encoder: nn.Module) -> nn.Module:
    """Batch norms that follow a convolution become part of its weights; the encoder is left as found.

    Encoders that torch.fx cannot trace come back unchanged: the exporter's optimiser folds what it can there.
    """
    try:
        traced = fx.GraphModule(encoder, _Tracer().trace(encoder))
    except Exception:  # tracing runs the model's own Python, which may raise anything
        return encoder
    modules = dict(traced.named_modules())
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d) or type(convolution) is not nn.Conv2d:
            continue
        if len(before.users) > 1 or calls[str(before.target)] > 1:  # someone else wants it without the norm
            continue
        _replace(traced, str(before.target), fuse_conv_bn_eval(convolution, norm))
        if isinstance(norm, BatchNormAct2d):
            _replace(traced, str(node.target), nn.Sequential(norm.drop, norm.act))
            continue
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.recompile()
    return traced


class _Tracer(fx.Tracer):
    """Keeps timm's norm with activation whole, so that its norm can be taken out."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, BatchNormAct2d) or super().is_leaf_module(m, module_qualified_name)


def _replace(root: nn.Module, target: str, module: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(root.get_submodule(parent), name, module)

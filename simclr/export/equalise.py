"""Channels of a feature map scaled towards one range, so that one scale for all of them wastes fewer levels.

Changes an fp32 graph and its `Seen` together, in place; what the graph computes stays the same: a ReLU, a pooling or a sum
of feature maps commutes with a positive factor by channel, so that the convolutions before may divide by it and those
after multiply. The idea is cross-layer equalisation (Nagel et al. 2019, arXiv:1906.04721, section 4.1); there the ranges
of weights decide, here those of activations, since weights have a scale for each channel anyway.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from simclr.export.calibration import Array, Seen

STRENGTH = 0.5
"""0 leaves all as it is, 1 gives every channel the same range and puts all the burden on the weights after it. Recall@10
of 0 against 0.5 over four encoders, the last a ResNet-18: 0.935, 0.935, 0.941, 0.958 against 0.938, 0.940, 0.945, 0.965 for the CPU, and 0.919,
0.919, 0.921, 0.948 against 0.928, 0.932, 0.938, 0.960 for TensorRT. 0.7 gave the TensorRT file up to 0.01 more and the CPU file
less; one value serves both."""
FLOOR = 1 / 16
"""A channel's range counts as at least this share of the largest: dead channels are not blown up."""

COMMUTES = {"Relu", "MaxPool", "AveragePool"}


@dataclass(frozen=True)
class _Group:
    """Feature maps that must share their factors, and the convolutions on both sides."""

    maps: list[str]
    before: list[onnx.NodeProto]
    after: list[onnx.NodeProto]


def equalise(model: onnx.ModelProto, seen: Seen) -> None:
    """Scale what can be scaled. Every convolution must own its weight and bias (`own_parameters`)."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for group in _groups(model):
        shares = [_share(seen, name) for name in group.maps]
        factor_C = (np.maximum(np.max(shares, axis=0), FLOOR) ** STRENGTH).astype(np.float32)
        for node in group.before:
            _scale(stored[node.input[1]], 1 / factor_C[:, None, None, None])
            _scale(stored[node.input[2]], 1 / factor_C)
        for node in group.after:
            _scale(stored[node.input[1]], factor_C[None, :, None, None])
        for name in group.maps:
            seen.low[name] = seen.low[name] / factor_C
            seen.high[name] = seen.high[name] / factor_C
            if name in seen.mean_map:
                seen.mean_map[name] = seen.mean_map[name] / factor_C[:, None, None]


def _share(seen: Seen, name: str) -> Array:
    """(C,): each channel's largest magnitude as a share of the map's."""
    size_C: Array = np.maximum(np.abs(seen.low[name]), np.abs(seen.high[name]))
    share_C: Array = size_C / np.maximum(size_C.max(), np.float32(1e-12))
    return share_C


def _scale(tensor: onnx.TensorProto, factor: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, tensor.name))


def _groups(model: onnx.ModelProto) -> Iterator[_Group]:
    """Maps connected by nodes that commute with the factors, with nothing but plain convolutions around them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    root: dict[str, str] = {}

    def find(name: str) -> str:
        root.setdefault(name, name)
        while root[name] != name:
            name = root[name]
        return name

    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    before: dict[str, list[onnx.NodeProto]] = {}
    after: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        inputs = [name for name in node.input if name and name not in stored]
        for name in (*inputs, *node.output):
            find(name)
        if node.op_type == "Conv":
            if node.input[1] not in stored:
                fixed |= {node.input[0], node.output[0]}  # its weight is computed
            before.setdefault(node.output[0], []).append(node)
            after.setdefault(node.input[0], []).append(node)
            if any(entry.name == "group" and entry.i != 1 for entry in node.attribute):
                fixed |= {node.input[0], node.output[0]}  # a channel's factor would have to pass through
        elif node.op_type in COMMUTES or (node.op_type == "Add" and len(inputs) == 2):
            for name in inputs:
                root[find(name)] = find(node.output[0])
        else:
            fixed |= {*inputs, *node.output}
    members: dict[str, list[str]] = {}
    for name in root:
        members.setdefault(find(name), []).append(name)
    for maps in members.values():
        first = [node for name in maps for node in before.get(name, [])]
        then = [node for name in maps for node in after.get(name, [])]
        if first and then and fixed.isdisjoint(maps):
            yield _Group(maps, first, then)

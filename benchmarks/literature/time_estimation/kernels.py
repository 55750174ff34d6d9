"""Kernels of a network: the operators of ONNX Runtime's optimised graph, with their shapes.

A profile of ONNX Runtime names each operator that ran and its shapes; the optimised graph holds the attributes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx import NodeProto, helper

#: Microseconds that a profile's whole microseconds leave out, on average.
_TRUNCATED_US = 0.5
#: Bytes of an element, by the profile's name of its type.
_BYTES = {"float": 4, "int64": 8, "double": 8, "uint8": 1, "int8": 1, "bool": 1, "int32": 4}
_SUFFIX = "_kernel_time"
#: Domain of ONNX Runtime's operators on maps in blocks of channels.
_BLOCKED = "com.microsoft.nchwc"
_CONVOLUTIONS = ("Conv", "FusedConv")
#: Numbers of fused activations in the features.
_FUSED = ("", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid")
Shape = tuple[int, ...]


class Kernel(NamedTuple):
    """One operator of the optimised graph.

    Attributes:
        kind: Kernels of one kind have one estimator.
        macs: Multiply-adds that ONNX Runtime does: it pads channels to its blocks.
        moved: Bytes of inputs, weights and outputs.
        features: Sizes and attributes; see ``features``.
    """

    kind: str
    macs: float
    moved: float
    features: tuple[float, ...]


def read(profile: Path, optimised: Path) -> tuple[list[Kernel], list[list[float]]]:
    """The kernels of a network, and their times in each profiled run, seconds ``[run][kernel]``.

    Args:
        profile: File that ONNX Runtime's profiler wrote.
        optimised: Graph that ONNX Runtime saved at the same time.
    """
    nodes = list(onnx.load(str(optimised)).graph.node)
    # Names can occur twice, and the profile numbers nodes without one. Such nodes run in the order of the graph.
    named: dict[str, list[NodeProto]] = {}
    for node in nodes:
        named.setdefault(node.name or node.op_type, []).append(node)
    events = [one for one in json.loads(profile.read_text()) if one["name"].endswith(_SUFFIX)]
    runs = len(events) // len(nodes)
    if len(events) != runs * len(nodes):
        raise ValueError(f"{len(events)} events of {len(nodes)} operators")
    kernels = []
    for one in events[: len(nodes)]:
        name, args = one["name"].removesuffix(_SUFFIX), one["args"]
        kernels.append(kernel(named[name if name in named else args["op_name"]].pop(0), args))
    durations = [(one["dur"] + _TRUNCATED_US) * 1e-6 for one in events]
    return kernels, [durations[at : at + len(nodes)] for at in range(0, len(events), len(nodes))]


def kernel(node: NodeProto, event: Mapping[str, Any]) -> Kernel:
    """A node with the shapes that its event states."""
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    taken, results = _tensors(event["input_type_shape"]), _tensors(event["output_type_shape"])
    moved = float(sum(_size(one) for one in (*taken, *results)))
    shapes = [shape for _, shape in taken]
    out = results[0][1] if results else ()
    macs = 0.0
    weight: Shape = ()
    if node.op_type in _CONVOLUTIONS:
        weight = shapes[1]
        macs = float(math.prod(weight[1:]) * math.prod(out))
    elif node.op_type in ("Gemm", "FusedGemm", "MatMul", "FusedMatMul") and shapes and out:
        # A weight that ONNX Runtime packed has no shape in the event.
        inner = shapes[0][0] if attributes.get("transA") else shapes[0][-1]
        macs = float(inner * math.prod(out))
        moved += 4.0 * inner * out[-1]
    elif node.op_type.endswith("Pool") and "kernel_shape" in attributes:
        macs = float(math.prod(attributes["kernel_shape"]) * math.prod(out))
    return Kernel(_kind(node, attributes, weight), macs, moved, features(attributes, shapes, out, weight))


def features(attributes: Mapping[str, Any], shapes: Sequence[Shape], out: Shape, weight: Shape) -> tuple[float, ...]:
    """Numbers that describe a kernel: sizes, channels, sides, kernel, stride, fused parts, axes."""
    source = shapes[0] if shapes else ()
    activation = attributes.get("activation", b"").decode()
    permutation, axis = attributes.get("perm", ()), attributes.get("axis", 0)
    kernel_shape = attributes.get("kernel_shape", [1, 1])
    strides, group = attributes.get("strides", [1, 1]), attributes.get("group", 1)
    channels_in, channels_out = _at(source, 1), _at(out, 1)
    return (
        float(math.prod(source)),
        float(math.prod(out)),
        float(math.prod(weight)),
        float(channels_in),
        float(channels_out),
        float(_at(out, 2)),
        float(_at(out, 3)),
        float(kernel_shape[0]),
        float(strides[0]),
        float(channels_in // group if weight else 1),
        float(channels_out % 8),
        float(channels_out % 32),
        float(_at(source, 3) if len(source) > 3 else source[-1] if source else 1),
        float(_FUSED.index(activation) if activation in _FUSED else len(_FUSED)),
        float(len(shapes)),
        float(len(source)),
        float(sum(pads) if (pads := attributes.get("pads")) else 0),
        float(axis if axis >= 0 else axis + len(source)),
        float(len(permutation) > 0 and permutation[-1] != len(permutation) - 1),
        float(min((math.prod(one) for one in shapes[1:]), default=0) < math.prod(source)),
    )


def _kind(node: NodeProto, attributes: Mapping[str, Any], weight: Shape) -> str:
    if node.op_type not in _CONVOLUTIONS:
        return node.op_type if node.domain != _BLOCKED else f"blocked {node.op_type}"
    group = attributes.get("group", 1)
    if group == 1:
        kind = "pointwise" if math.prod(weight[2:]) == 1 else "convolution"
    else:
        kind = "depthwise" if weight[1] == 1 else "grouped"
    return kind if node.domain == _BLOCKED else f"plain {kind}"


def _tensors(stated: Sequence[Mapping[str, Sequence[int]]]) -> list[tuple[str, Shape]]:
    return [(kind, tuple(shape)) for one in stated for kind, shape in one.items()]


def _size(tensor: tuple[str, Shape]) -> int:
    return _BYTES.get(tensor[0], 4) * math.prod(tensor[1])


def _at(shape: Shape, axis: int) -> int:
    return shape[axis] if axis < len(shape) else 1

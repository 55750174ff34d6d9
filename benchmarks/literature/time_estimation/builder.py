"""Networks of random weights, written layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from cachenet.models.export.graph import Graph

#: Activations, by name: operators, one after the other; ``silu`` and ``clip`` are special.
_ONE = {
    "relu": "Relu",
    "leaky": "LeakyRelu",
    "sigmoid": "Sigmoid",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
}
ACTIVATIONS = ("relu", "clip", "silu", "leaky", "hardswish", "none")


class Map(NamedTuple):
    """A tensor ``(1, channels, height, width)``."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def size(self) -> int:
        return self.channels * self.height * self.width


class Builder:
    """Writes a network of one input. Each method adds a layer and returns its output."""

    def __init__(self, channels: int, height: int, width: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._graph = Graph()
        self._count = 0
        self.image = Map("image", channels, height, width)

    def conv(self, x: Map, out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: str = "relu") -> Map:
        """A convolution with padding of half its kernel, and an activation."""
        scale = (2 / (x.channels // groups * kernel**2)) ** 0.5
        weight = self._rng.normal(0, scale, (out, x.channels // groups, kernel, kernel)).astype(np.float32)
        name = self._name("conv")
        self._graph.conv(name, x.name, weight, np.zeros(out, np.float32), stride, pads=[kernel // 2] * 4, group=groups)
        y = Map(name, out, _halved(x.height, kernel, stride), _halved(x.width, kernel, stride))
        return self.activation(y, act)

    def depthwise(self, x: Map, kernel: int = 3, stride: int = 1, act: str = "relu") -> Map:
        return self.conv(x, x.channels, kernel, stride, x.channels, act)

    def activation(self, x: Map, act: str) -> Map:
        if act == "none":
            return x
        if act == "silu":
            return self._of(x, "Mul", [x.name, self.activation(x, "sigmoid").name])
        if act == "clip":
            bounds = [self._graph.constant(self._name("bound"), np.array(one, np.float32)) for one in (0.0, 6.0)]
            return self._of(x, "Clip", [x.name, *bounds])
        return self._of(x, _ONE[act], [x.name])

    def add(self, x: Map, y: Map) -> Map:
        return self._of(x, "Add", [x.name, y.name])

    def multiply(self, x: Map, y: Map) -> Map:
        return self._of(x, "Mul", [x.name, y.name])

    def concat(self, parts: Sequence[Map]) -> Map:
        channels = sum(one.channels for one in parts)
        return self._of(parts[0]._replace(channels=channels), "Concat", [one.name for one in parts], axis=1)

    def pool(self, x: Map, kernel: int, stride: int, kind: str = "Max") -> Map:
        y = x._replace(height=_halved(x.height, kernel, stride), width=_halved(x.width, kernel, stride))
        options = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self._of(y, f"{kind}Pool", [x.name], **options)

    def global_pool(self, x: Map) -> Map:
        return self._of(x._replace(height=1, width=1), "GlobalAveragePool", [x.name])

    def larger(self, x: Map, mode: str = "nearest") -> Map:
        """Twice the sides."""
        scales = self._graph.fixed(self._name("scales"), np.array([1, 1, 2, 2], np.float32))
        options = {"coordinate_transformation_mode": "asymmetric"}
        if mode == "nearest":
            options["nearest_mode"] = "floor"
        y = x._replace(height=2 * x.height, width=2 * x.width)
        return self._of(y, "Resize", [x.name, "", scales], mode=mode, **options)

    def halves(self, x: Map) -> tuple[Map, Map]:
        """The first and the second half of the channels."""
        half, names = x.channels // 2, (self._name("half"), self._name("half"))
        sizes = self._graph.fixed(self._name("sizes"), np.array([half, x.channels - half]))
        self._graph.nodes.append(helper.make_node("Split", [x.name, sizes], list(names), name=names[0], axis=1))
        return Map(names[0], half, *x[2:]), Map(names[1], x.channels - half, *x[2:])

    def shuffle(self, x: Map) -> Map:
        """Channels of two halves in turns, as in ShuffleNet."""
        apart = self._reshape(x.name, [1, 2, x.channels // 2, x.height, x.width])
        turned = self._graph.node("Transpose", [apart], self._name("turned"), perm=[0, 2, 1, 3, 4])
        return x._replace(name=self._reshape(turned, [1, x.channels, x.height, x.width]))

    def focus(self, x: Map) -> Map:
        """Pixels of two rows and columns as channels, as in YOLOX."""
        parts = []
        for start in ([0, 0], [1, 0], [0, 1], [1, 1]):
            bounds = ([*start], [x.height, x.width], [2, 3], [2, 2])
            names = [self._graph.fixed(self._name("bound"), np.array(one)) for one in bounds]
            parts.append(self._of(Map("", x.channels, x.height // 2, x.width // 2), "Slice", [x.name, *names]))
        return self.concat(parts)

    def rows(self, x: Map) -> Map:
        """``(1, cells, channels)`` as ``Map(name, 1, cells, channels)``, as detectors end."""
        flat = self._reshape(x.name, [1, x.channels, x.height * x.width])
        turned = self._graph.node("Transpose", [flat], self._name("rows"), perm=[0, 2, 1])
        return Map(turned, 1, x.height * x.width, x.channels)

    def softmax(self, x: Map) -> Map:
        return self._of(x, "Softmax", [x.name], axis=-1)

    def flatten(self, x: Map) -> Map:
        return self._of(Map("", x.size, 1, 1), "Flatten", [x.name])

    def linear(self, x: Map, out: int, act: str = "none") -> Map:
        """A matrix product with the flat ``x``."""
        name = self._name("linear")
        weight = self._rng.normal(0, x.channels**-0.5, (out, x.channels)).astype(np.float32)
        bias = self._graph.constant(f"{name}.bias", np.zeros(out, np.float32))
        self._graph.node("Gemm", [x.name, self._graph.constant(f"{name}.weight", weight), bias], name, transB=1)
        return self.activation(Map(name, out, 1, 1), act)

    def classifier(self, x: Map, classes: int) -> Map:
        """Global pool and matrix product."""
        return self.linear(self.flatten(self.global_pool(x)), classes)

    def model(self, *outputs: Map) -> bytes:
        """The network as an ONNX file."""
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, *self.image[1:]])
        ends = [ValueInfoProto(name=one.name) for one in outputs]  # ONNX Runtime infers their shapes
        graph = helper.make_graph(self._graph.nodes, "random", [image], ends, self._graph.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    def _name(self, word: str) -> str:
        self._count += 1
        return f"{word}{self._count}"

    def _of(self, shape: Map, kind: str, inputs: list[str], **attributes: object) -> Map:
        return shape._replace(name=self._graph.node(kind, inputs, self._name(kind.lower()), **attributes))

    def _reshape(self, x: str, shape: list[int]) -> str:
        sizes = self._graph.fixed(self._name("shape"), np.array(shape))
        return self._graph.node("Reshape", [x, sizes], self._name("reshaped"))


def _halved(side: int, kernel: int, stride: int) -> int:
    return (side + 2 * (kernel // 2) - kernel) // stride + 1

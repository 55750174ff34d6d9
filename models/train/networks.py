"""Residual networks for small images, in the sizes that a bundle needs.

K. He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385). Auxiliary classifiers (C.-Y. Lee et
al., "Deeply-Supervised Nets", arXiv 1409.5185) make the middle layers useful to early exits; export drops them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cachenet.shared.inference.image import Size, pixels


@dataclass(frozen=True)
class Shape:
    """Architecture of a residual network."""

    widths: tuple[int, ...]  # Channels of each stage
    blocks: tuple[int, ...]  # Blocks of each stage
    classes: int = 10  # Number of labels
    stem: int = 1  # Stride of the stem: 1 for a 3x3 convolution, else the side of its patches, pixels


Auxiliary = Literal["none", "stages", "blocks"]
#: Side of the pooled maps of an ``Exit``.
_EXIT_GRID = 4
#: Channels of an ``Exit``.
_EXIT_CHANNELS = 64
#: One of the two networks of the CIFAR-10 full model (arXiv 1512.03385), with a 3x3 stem for 32-pixel images.
RESNET18 = Shape(widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2))
#: 0.37 M parameters and 42 M multiply-adds, a 13th of ``RESNET18``. Few channels where maps are large, because most of
#: the arithmetic is there; shallow, because dispatching operators takes the rest of the time.
BASE = Shape(widths=(12, 48, 96), blocks=(2, 2, 2))
#: Upper bound of the shorter side of the stem's output for the smallest patches, pixels.
_MAX_STEM_SIDE = 56
#: Minimum of the shorter side of the stem's output for the largest patches, pixels.
_MIN_STEM_SIDE = 8


class Pointwise(nn.Conv2d):
    """A 1x1 convolution with a stride; outputs, weights and their names are those of ``nn.Conv2d``.

    The pixels are selected first, because oneDNN 3.12 corrupts the heap in the backward pass of a strided 1x1
    convolution (docs/log.md).
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(channels_in, channels, 1, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        down, right = self.stride
        return F.conv2d(input[:, :, ::down, ::right], self.weight)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (arXiv 1512.03385, figure 5 left)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(Pointwise(channels_in, channels, stride), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Network(nn.Module):
    """A classifier: input ``(n, 3, h, w)`` normalised RGB; output ``(n, classes)`` logits."""

    def heads(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every auxiliary head, then those of the output head."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.heads(x)[-1]


class Pooled(nn.Linear):
    """Linear auxiliary classifier of the mean of maps ``(n, channels, h, w)``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.mean((2, 3)))


class Exit(nn.Sequential):
    """Convolutional auxiliary classifier of maps ``(n, channels, h, w)``, as large as an early-exit head."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(_EXIT_GRID),
            nn.Conv2d(channels, _EXIT_CHANNELS, 3, 1, 1, bias=False),
            nn.BatchNorm2d(_EXIT_CHANNELS),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(_EXIT_CHANNELS * _EXIT_GRID**2, classes),
        )


class ResNet(Network):
    """Stem, stages, mean pool, linear head.

    Args:
        shape: Architecture.
        auxiliary: ``stages`` for a linear head after each stage but the last, ``blocks`` for an ``Exit`` after each
            block but the last.

    >>> ResNet(Shape(widths=(8, 16), blocks=(1, 1)))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, shape: Shape, auxiliary: Auxiliary = "none") -> None:
        super().__init__()
        self.shape = shape
        kernel, stride, edge = (3, 1, 1) if shape.stem == 1 else (shape.stem, shape.stem, 0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, shape.widths[0], kernel, stride, edge, bias=False), nn.BatchNorm2d(shape.widths[0]), nn.ReLU()
        )
        stages, channels = [], shape.widths[0]
        for number, (width, count) in enumerate(zip(shape.widths, shape.blocks, strict=True)):
            blocks = [Block(channels, width, 2 if number else 1)]
            blocks += [Block(width, width, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(channels, shape.classes)
        ends = [width for width, count in zip(shape.widths, shape.blocks, strict=True) for _ in range(count)]
        heads: dict[int, nn.Module] = {}
        if auxiliary == "stages":
            heads = {
                sum(shape.blocks[:stage]): Pooled(shape.widths[stage - 1], shape.classes)
                for stage in range(1, len(shape.blocks))
            }
        elif auxiliary == "blocks":
            heads = {count: Exit(ends[count - 1], shape.classes) for count in range(1, len(ends))}
        #: Number of the auxiliary head by the number of blocks before it.
        self._head_after = {count: number for number, count in enumerate(heads)}
        self.auxiliary = nn.ModuleList(heads.values())

    def heads(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        logits: list[Tensor] = []
        for count, block in enumerate((block for stage in self.stages for block in stage.children()), 1):
            x = block(x)
            if count in self._head_after:
                logits.append(self.auxiliary[self._head_after[count]](x))
        return [*logits, self.head(x.mean((2, 3)))]

    def parameters_count(self) -> int:
        """Return the number of exported parameters, without auxiliary heads."""
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("auxiliary"))


def array(tensor: Tensor) -> npt.NDArray[np.float32]:
    """Convert a weight to a NumPy array."""
    values: npt.NDArray[np.float32] = tensor.detach().cpu().float().numpy()
    return values


def sized(limit: int, side: Size, classes: int, blocks: tuple[int, ...] = BASE.blocks) -> Shape:
    """Return the largest network of ``BASE``'s proportions within a budget.

    If the narrowest is too large, use one block in each stage, then larger patches. If all are too large, return the
    smallest.

    Args:
        limit: Multiply-adds of one image.
        side: Size of the images, pixels.
        blocks: Blocks of each stage.
    """
    shorter = min(pixels(side))
    stem = 1
    while shorter // stem >= _MAX_STEM_SIDE:
        stem *= 2
    shallow = (1,) * len(blocks)
    stems = [stem * 2**more for more in range(1, 8) if shorter // (stem * 2**more) >= _MIN_STEM_SIDE]
    for narrowest, depth, patch in [(4, blocks, stem), (4, shallow, stem), *((1, shallow, larger) for larger in stems)]:
        best = _scaled(narrowest, classes, patch, depth)
        if _planned_macs(best, side) <= limit:
            break
    for sixteenths in range(narrowest + 1, 200):
        shape = _scaled(sixteenths, classes, patch, depth)
        if _planned_macs(shape, side) > limit:
            break
        best = shape
    return best


def _scaled(sixteenths: int, classes: int, stem: int, blocks: tuple[int, ...]) -> Shape:
    """Return ``BASE`` with ``sixteenths`` sixteenths of its channels, rounded to even numbers."""
    widths = tuple(max(4, round(width * sixteenths / 16 / 2) * 2) for width in BASE.widths)
    return Shape(widths, blocks, classes, stem)


@functools.cache
def _planned_macs(shape: Shape, side: Size) -> int:
    """Multiply-adds of a network that is not made: no weights, nothing computed."""
    with torch.device("meta"):
        return macs(ResNet(shape), side)


def macs(network: ResNet, side: Size = 32) -> int:
    """Return the multiply-adds of one image of size ``side`` in the convolutions and the linear head."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += module.weight[0].numel() * output[0].numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel()

    exported = [module for name, module in network.named_modules() if not name.startswith("auxiliary")]
    hooks = [module.register_forward_hook(count) for module in exported]
    was_training = network.training
    network.eval()
    with torch.no_grad():
        width, height = pixels(side)
        network(torch.zeros(1, 3, height, width, device=next(network.parameters()).device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return total

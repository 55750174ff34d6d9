"""An anchor-free detector for small devices: a heatmap of object centres, with the size of the object at each centre.

X. Zhou et al., "Objects as Points" (CenterNet, arXiv 1904.07850), with plain 3x3 convolutions: depthwise ones spend
their time in dispatching operators, on devices and in training. Maps at strides 16 and 32 let each centre see the whole
object, and cost little because they are small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cachenet.models.train.networks import Network
from cachenet.shared.inference.image import Size, pixels

#: Pixels of the input for each cell of the output, on each axis.
STRIDE = 8
#: The input's sides are multiples of this, pixels: the stride of the coarsest maps.
MULTIPLE = 32
#: Channels of the output before the scores: offset right and down from the cell's corner, log width and log height.
BOX_CHANNELS = 4
#: Initial logit of all scores. Nearly all cells are empty (CenterNet, section 5; here the sigmoid of -4 is 0.018).
_EMPTY = -4.0


@dataclass(frozen=True)
class HeatmapShape:
    """Architecture of a ``HeatmapNet``."""

    widths: tuple[int, int, int]  # Channels at strides 2, 4, and 8 and more
    classes: int = 1  # Number of labels


class Convolution(nn.Sequential):
    """3x3 convolution, normalisation, ReLU."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )


class Residual(nn.Module):
    """A convolution with a shortcut around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = Convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = x + self.convolution(x)
        return total


class HeatmapNet(Network):
    """From normalised pictures ``(n, 3, h, w)`` to ``(n, 4 + classes, h / 8, w / 8)``: ``BOX_CHANNELS``, then logits.

    >>> HeatmapNet(HeatmapShape((8, 8, 16)))(torch.zeros(2, 3, 64, 96)).shape
    torch.Size([2, 5, 8, 12])
    """

    def __init__(self, shape: HeatmapShape) -> None:
        super().__init__()
        self.shape = shape
        first, second, third = shape.widths
        self.fine = nn.Sequential(
            Convolution(3, first, 2),
            Convolution(first, second, 2),
            Convolution(second, third, 2),
            Residual(third),
            Residual(third),
        )
        self.middle = nn.Sequential(Convolution(third, third, 2), Residual(third))
        self.coarse = nn.Sequential(Convolution(third, third, 2), Residual(third), Residual(third))
        self.middle_joined = Residual(third)
        self.fine_joined = nn.Sequential(Residual(third), Residual(third))
        self.head = nn.Conv2d(third, BOX_CHANNELS + shape.classes, 1)
        nn.init.constant_(self.head.bias[BOX_CHANNELS:], _EMPTY)  # type: ignore[index]

    def heads(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        middle = self.middle(fine)
        middle = self.middle_joined(middle + F.interpolate(self.coarse(middle), scale_factor=2))
        return [self.head(self.fine_joined(fine + F.interpolate(middle, scale_factor=2)))]

    def parameters_count(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())


def peaks(output: Tensor) -> Tensor:
    """The exported form of a network's output: scores, with 0 wherever a neighbour is higher, in place of logits."""
    boxes, scores = output[:, :BOX_CHANNELS], torch.sigmoid(output[:, BOX_CHANNELS:])
    highest = F.max_pool2d(scores, 3, 1, 1)
    return torch.cat([boxes, torch.where(scores == highest, scores, 0.0)], 1)


def input_size(size: Size, area: int) -> tuple[int, int]:
    """Width and height of an input of about ``area`` pixels with about the aspect ratio of a picture of ``size``.

    >>> input_size((768, 576), 384 * 288)
    (384, 288)
    """
    width, height = pixels(size)
    # An extreme strip would get a side of no cells.
    aspect = min(8.0, max(1 / 8, width / height))
    sides = ((area * aspect) ** 0.5, (area / aspect) ** 0.5)
    wide, high = (max(1, round(side / MULTIPLE)) * MULTIPLE for side in sides)
    return wide, high

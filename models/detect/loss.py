"""The loss of a heatmap detector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.detect.network import BOX_CHANNELS
from cachenet.models.detect.targets import HEAT, WEIGHT

#: Bound of a probability, so that its logarithm is finite.
_LEAST = 1e-4
#: Largest logarithm of a size in the overlap, cells: more is no box of any picture.
_LARGEST = 6.0


def loss(heads: list[Tensor], target: Tensor) -> Tensor:
    """Focal loss of the centres (arXiv 1904.07850, equation 1), plus distance and overlap of the boxes."""
    [output] = heads
    boxes, wanted = output[:, :BOX_CHANNELS], target[:, :BOX_CHANNELS]
    weight, total = target[:, WEIGHT], target[:, WEIGHT].sum().clamp(min=1)
    distance = (F.smooth_l1_loss(boxes, wanted, reduction="none").sum(1) * weight).sum()
    overlap = ((1 - _iou(boxes, wanted)) * weight).sum()
    return _focal(output[:, BOX_CHANNELS:], target[:, HEAT:]) + (distance + overlap) / total


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    p = torch.sigmoid(logits).clamp(_LEAST, 1 - _LEAST)
    centre = (heat == 1).float()
    hits = centre * (1 - p) ** 2 * p.log()
    rest = (1 - centre) * (1 - heat) ** 4 * p**2 * (1 - p).log()
    return -(hits + rest).sum() / centre.sum().clamp(min=1)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union ``(n, rows, columns)`` of boxes of the same cells."""
    (low, high, area), (low_2, high_2, area_2) = _corners(boxes), _corners(others)
    shared = (torch.minimum(high, high_2) - torch.maximum(low, low_2)).clamp(min=0).prod(1)
    return shared / (area + area_2 - shared + 1e-6)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    centre, half = boxes[:, :2], boxes[:, 2:].clamp(-_LARGEST, _LARGEST).exp() / 2
    return centre - half, centre + half, 4 * half.prod(1)

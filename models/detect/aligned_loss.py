"""Loss of a detector with cells: each object is learned by the cells whose score and box fit it best already.

Task-aligned assignment (C. Feng et al., TOOD, arXiv 2108.07755) with a number of cells an object from their overlap
(Z. Ge et al., YOLOX, arXiv 2107.08430, section 2.1); overlap as in GIoU (arXiv 1902.09630).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cachenet.models.detect.cells import Cells

#: Exponents of score and overlap in the alignment (TOOD, section 3.2).
_SCORE_POWER, _OVERLAP_POWER = 1.0, 6.0
#: Most cells of an object.
_MOST = 10
#: Largest distance of a cell from the centre of its object, cells, where the cell is not inside of the object.
_REACH = 1.0
#: Weight of a cell without an object (varifocal loss, arXiv 2008.13367): its probability to this power, times a share.
_FOCUS, _EMPTY_SHARE = 2.0, 0.75
#: Weight of the boxes in the loss.
_BOX_WEIGHT = 2.0
_LEAST = 1e-5


def aligned_loss(found: Cells, objects: Tensor) -> Tensor:
    """Loss of ``n`` pictures, for each cell with an object.

    Args:
        objects: Objects of each picture ``(n, m, 6)``: left, top, right and bottom in pixels of the input, the label,
            and whether the object is one (1) or neither object nor background (0); rows of -1 for none.
    """
    total = weight = found.boxes.new_zeros(())
    for row, rows in enumerate(objects):
        present = rows[rows[:, 4] >= 0]
        loss, count = _of_picture(found, row, present[:, :4], present[:, 4].long(), present[:, 5] > 0)
        total, weight = total + loss, weight + count
    return total / weight.clamp(min=1)


def _of_picture(found: Cells, row: int, boxes: Tensor, labels: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
    own, scores = found.boxes[row], found.scores[row].clamp(_LEAST, 1 - _LEAST)
    target, ignored = torch.zeros_like(scores), torch.zeros_like(scores, dtype=torch.bool)
    box_loss = scores.new_zeros(())
    if len(boxes):
        with torch.no_grad():
            overlap = _iou(boxes[:, None], own[None])  # (m, cells)
            inside = ((found.centres >= boxes[:, None, :2]) & (found.centres <= boxes[:, None, 2:])).all(-1)
            middle = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
            near = ((found.centres - middle).abs() <= _REACH * found.strides).all(-1)
            aligned = scores.T[labels] ** _SCORE_POWER * overlap**_OVERLAP_POWER  # (m, cells)
            aligned = torch.where(inside | near, aligned + 1e-9 * overlap + 1e-12, torch.zeros_like(aligned))
            chosen = _chosen(aligned, overlap)
            owner = torch.where(chosen, overlap + 1e-6, torch.zeros_like(overlap)).max(0)
            rows = torch.nonzero(owner.values > 0)[:, 0]
            objects = owner.indices[rows]
            highest = torch.where(chosen, aligned, torch.zeros_like(aligned)).max(1).values
            best = torch.where(chosen, overlap, torch.zeros_like(overlap)).max(1).values
            value = (aligned[objects, rows] / highest[objects] * best[objects]).clamp(0, 1)
            certain = sure[objects]
            ignored[rows[~certain], labels[objects[~certain]]] = True
            rows, objects, value = rows[certain], objects[certain], value[certain]
            target[rows, labels[objects]] = value
        if len(rows):
            box_loss = (_giou_loss(own[rows], boxes[objects]) * value).sum()
    empty = target == 0
    factor = torch.where(empty, _EMPTY_SHARE * scores.detach() ** _FOCUS, torch.ones_like(target))
    factor = factor.masked_fill(ignored, 0.0)
    score_loss = (F.binary_cross_entropy(scores, target, reduction="none") * factor).sum()
    return score_loss + _BOX_WEIGHT * box_loss, target.sum()


def _chosen(aligned: Tensor, overlap: Tensor) -> Tensor:
    """The cells of each object ``(m, cells)``: those that fit best, as many as their overlaps sum to."""
    most = min(_MOST, aligned.shape[1])
    allowed = torch.where(aligned > 0, overlap, torch.zeros_like(overlap))
    counts = allowed.topk(most, 1).values.sum(1).int().clamp(min=1)
    values, places = aligned.topk(most, 1)
    wanted = (torch.arange(most, device=counts.device) < counts[:, None]) & (values > 0)
    return torch.zeros_like(aligned, dtype=torch.bool).scatter_(1, places, wanted)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    shared, union = _areas(boxes, others)
    return shared / union.clamp(min=1e-6)


def _areas(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area, other = ((one[..., 2:] - one[..., :2]).clamp(min=0).prod(-1) for one in (boxes, others))
    return shared, area + other - shared


def _giou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    shared, union = _areas(boxes, others)
    low, high = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1).clamp(min=1e-6)
    return 1 - shared / union.clamp(min=1e-6) + (hull - union) / hull

"""The loss of detectors with cells: objects are learned by the cells that fit them, and the rest is background."""

from __future__ import annotations

import torch
from torch import Tensor

from cachenet.models.detect.aligned_loss import aligned_loss
from cachenet.models.detect.cells import Cells

#: Nine cells of 10 pixels; each has a box of 10 x 10 pixels in its middle.
CENTRES = torch.tensor([[10.0 * x + 5, 10.0 * y + 5] for y in range(3) for x in range(3)])
BOXES = torch.cat([CENTRES - 5, CENTRES + 5], 1)
#: An object of label 1 at the cell in the middle.
OBJECT = torch.tensor([[[10.0, 10.0, 20.0, 20.0, 1.0, 1.0]]])


def found(logits: Tensor, boxes: Tensor = BOXES) -> Cells:
    return Cells(boxes[None], logits.sigmoid()[None], CENTRES, torch.full((9, 1), 10.0))


def gradient(objects: Tensor, start: float = -2.0) -> Tensor:
    """How the loss pushes the score of each cell and label: a negative value raises the score."""
    logits = torch.full((9, 2), start, requires_grad=True)
    aligned_loss(found(logits), objects).backward()
    assert logits.grad is not None
    return logits.grad


def test_an_object_raises_the_score_of_its_cell_and_label_alone() -> None:
    raised = gradient(OBJECT) < 0
    assert raised.nonzero().tolist() == [[4, 1]]


def test_without_objects_all_scores_are_lowered() -> None:
    none = torch.full((1, 2, 6), -1.0)
    assert bool((gradient(none) > 0).all())


def test_an_unsure_object_neither_raises_nor_lowers_the_score_of_its_cell() -> None:
    unsure = OBJECT.clone()
    unsure[..., 5] = 0
    pushed = gradient(unsure)
    assert float(pushed[4, 1]) == 0.0
    assert float(pushed[0, 1]) > 0.0


def test_the_order_of_the_objects_changes_nothing() -> None:
    two = torch.tensor([[[10.0, 10.0, 20.0, 20.0, 1.0, 1.0], [0.0, 0.0, 10.0, 12.0, 0.0, 1.0]]])
    assert torch.allclose(gradient(two), gradient(two.flip(1)))


def test_descent_moves_a_box_to_its_object() -> None:
    boxes = (BOXES + torch.tensor([3.0, -2.0, 4.0, 1.0])).requires_grad_()
    logits = torch.full((9, 2), 2.0)
    optimiser = torch.optim.Adam([boxes], 0.2)
    for _ in range(100):
        optimiser.zero_grad()
        aligned_loss(found(logits, boxes), OBJECT).backward()
        optimiser.step()
    assert torch.allclose(boxes[4], BOXES[4], atol=0.5)
    assert not torch.allclose(boxes[0], BOXES[0], atol=1.0)


def test_an_object_smaller_than_a_cell_is_learned() -> None:
    """No cell has its place inside of the object, and no box fits it before."""
    small = torch.tensor([[[8.0, 8.0, 12.0, 12.0, 0.0, 1.0]]])
    boxes, logits = BOXES.clone().requires_grad_(), torch.full((9, 2), -2.0, requires_grad=True)
    optimiser = torch.optim.Adam([boxes, logits], 0.2)
    for _ in range(150):
        optimiser.zero_grad()
        aligned_loss(found(logits, boxes), small).backward()
        optimiser.step()
    sure = (logits[:, 0].sigmoid() > 0.5).nonzero()[:, 0]
    assert len(sure) >= 1
    assert torch.allclose(boxes[sure[0]], small[0, 0, :4], atol=0.7)

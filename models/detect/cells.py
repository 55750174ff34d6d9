"""The boxes and probabilities of all cells of a detector, with gradients: the decoders that training needs.

The same outputs and boxes as in ``shared.inference.decoders``, before the choice of detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cachenet.models.train.onnx_network import NotTrainable
from cachenet.shared.inference.decoders import Decoder, grid
from cachenet.shared.inference.decoders import strides as strides_of

#: Bound of the logarithm of a size, cells: no box of a picture is larger.
_LARGEST = 6.0


@dataclass(frozen=True)
class Cells:
    """What a detector gives for ``n`` pictures, of ``c`` cells each.

    Attributes:
        boxes: Left, top, right, bottom, pixels of the input ``(n, c, 4)``.
        scores: Probability of each label ``(n, c, labels)``.
        centres: Place of each cell, pixels ``(c, 2)``.
        strides: Distance of neighbouring cells, pixels ``(c, 1)``.
    """

    boxes: Tensor
    scores: Tensor
    centres: Tensor
    strides: Tensor


def cells(outputs: list[Tensor], decoder: Decoder, size: tuple[int, int]) -> Cells:
    """Decode the outputs of an ``OnnxNetwork``. Raises ``NotTrainable`` for a decoder without cells.

    Args:
        size: Width and height of the input, pixels.
    """
    if decoder.kind not in ("yolox", "yolov5", "yolov8", "nanodet", "fastestdet"):
        raise NotTrainable(f"a detector with the decoder {decoder.kind} cannot be trained")
    table = outputs[0][:, 0]
    if decoder.kind == "fastestdet":
        return _fastestdet(table, decoder, size)
    if decoder.kind == "yolov8":
        table = table.transpose(1, 2)
    if decoder.kind == "nanodet":
        return _nanodet(table, decoder, size)
    if not strides_of(table.shape[1], size):
        raise NotTrainable("a detector with several boxes a cell cannot be trained")
    offset = 0.0 if decoder.kind == "yolox" else 0.5
    centres, strides = (torch.from_numpy(one).to(table.device) for one in grid(table.shape[1], size, offset))
    classes = list(decoder.classes)
    if decoder.kind == "yolov8":
        return Cells(
            _centred(table[..., :2], table[..., 2:4]), table[..., [4 + one for one in classes]], centres, strides
        )
    scores = table[..., 4:5] * table[..., [5 + one for one in classes]]
    if decoder.kind == "yolov5":
        return Cells(_centred(table[..., :2], table[..., 2:4]), scores, centres, strides)
    boxes = _centred(centres + table[..., :2] * strides, table[..., 2:4].clamp(max=_LARGEST).exp() * strides)
    return Cells(boxes, scores, centres + 0.5 * strides, strides)


def _nanodet(table: Tensor, decoder: Decoder, size: tuple[int, int]) -> Cells:
    offset = 0.0 if len(strides_of(table.shape[1], size)) == 4 else 0.5
    centres, steps = (torch.from_numpy(one).to(table.device) for one in grid(table.shape[1], size, offset))
    classes = table.shape[2] - 4 * decoder.bins
    shares = table[..., classes:].reshape(*table.shape[:2], 4, decoder.bins).softmax(-1)
    distances = (shares * torch.arange(decoder.bins, device=table.device)).sum(-1) * steps
    boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)
    return Cells(boxes, table[..., list(decoder.classes)], centres, steps)


def _fastestdet(table: Tensor, decoder: Decoder, size: tuple[int, int]) -> Cells:
    rows, columns = table.shape[2:]
    flat = table.flatten(2).transpose(1, 2)  # (n, cells, 5 + classes)
    step = table.new_tensor([size[0] / columns, size[1] / rows])
    numbers = torch.arange(rows * columns, device=table.device)
    corners = torch.stack([numbers % columns, numbers // columns], 1).float()
    centres = (corners + flat[..., 1:3].tanh()) * step
    boxes = _centred(centres, flat[..., 3:5].sigmoid() * table.new_tensor(size))
    scores = _power(flat[..., :1], 0.6) * _power(flat[..., [5 + one for one in decoder.classes]], 0.4)
    return Cells(boxes, scores, corners * step, step.mean().expand(len(corners), 1))


def _power(x: Tensor, exponent: float) -> Tensor:
    return x.clamp(min=1e-6) ** exponent


def _centred(centres: Tensor, sizes: Tensor) -> Tensor:
    return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)

"""Boxes and probabilities of all cells, with gradients: the same as those of the decoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cachenet.models.detect.aligned_loss import _chosen
from cachenet.models.detect.cells import cells
from cachenet.models.train.onnx_network import NotTrainable
from cachenet.shared.inference.decoders import Decoder, DecoderKind, decode

SIZE = (96, 64)
#: Cells of strides 8, 16 and 32, and with 64.
CELLS, FOUR_STRIDES = 12 * 8 + 6 * 4 + 3 * 2, 12 * 8 + 6 * 4 + 3 * 2 + 2


def outputs(kind: DecoderKind, rng: np.random.Generator) -> np.ndarray:
    def scores(*shape: int) -> np.ndarray:
        return rng.uniform(0.05, 0.95, shape)

    pixels = rng.uniform([10, 10, 4, 4], [80, 50, 40, 30], (CELLS, 4))
    made = {
        "yolox": lambda: np.c_[rng.normal(0, 1, (CELLS, 4)), scores(CELLS, 4)],
        "yolov5": lambda: np.c_[pixels, scores(CELLS, 4)],
        "yolov8": lambda: np.c_[pixels, scores(CELLS, 3)].T,
        "nanodet": lambda: np.c_[scores(FOUR_STRIDES, 3), rng.normal(0, 1, (FOUR_STRIDES, 32))],
        "fastestdet": lambda: np.concatenate([scores(1, 4, 6), rng.normal(0, 1, (4, 4, 6)), scores(3, 4, 6)]),
    }
    return made[kind]().astype(np.float32)


@pytest.mark.parametrize("kind", ["yolox", "yolov5", "yolov8", "nanodet", "fastestdet"])
def test_the_surest_cells_are_the_detections_of_the_decoder(kind: DecoderKind) -> None:
    """Without a choice of detections, there are a box and a score for each cell and label."""
    table = outputs(kind, np.random.default_rng(0))
    decoder = Decoder(kind, (2, 0), score=0.3)
    found = cells([torch.from_numpy(table)[None, None]], decoder, SIZE)
    scores, labels = found.scores[0].max(1)
    boxes = found.boxes[0].numpy() / np.array([*SIZE, *SIZE])
    for box, label, score in zip(*decode([table[None]], decoder, SIZE), strict=True):
        at = int(np.abs(boxes - box).max(1).argmin())
        assert boxes[at] == pytest.approx(box, abs=1e-4)
        assert (int(labels[at]), float(scores[at])) == (label, pytest.approx(score, abs=1e-4))


@pytest.mark.parametrize("kind", ["yolox", "yolov5", "yolov8", "nanodet", "fastestdet"])
def test_boxes_and_scores_have_gradients(kind: DecoderKind) -> None:
    table = torch.from_numpy(outputs(kind, np.random.default_rng(1)))[None, None].requires_grad_()
    found = cells([table], Decoder(kind, (0,)), SIZE)
    (found.boxes.mean() + found.scores.mean()).backward()
    assert table.grad is not None and bool(table.grad.isfinite().all()) and float(table.grad.abs().sum()) > 0


def test_a_detector_without_cells_is_refused() -> None:
    with pytest.raises(NotTrainable, match="with the decoder detr cannot be trained"):
        cells([torch.zeros(1, 1, 10, 4)], Decoder("detr", (0,)), SIZE)
    with pytest.raises(NotTrainable, match="several boxes a cell"):
        cells([torch.zeros(1, 1, 3 * CELLS, 6)], Decoder("yolov5", (0,)), SIZE)


@pytest.mark.parametrize("kind", ["yolox", "yolov5", "yolov8", "nanodet", "fastestdet"])
def test_all_cells_are_where_the_outputs_are(kind: DecoderKind) -> None:
    """The meta device has no values, and fails, as a GPU does, where its tensors meet a processor's."""
    shape = outputs(kind, np.random.default_rng(0)).shape
    found = cells([torch.empty(1, 1, *shape, device="meta")], Decoder(kind, (2, 0), score=0.3), SIZE)
    assert {found.boxes.device.type, found.scores.device.type, found.centres.device.type} == {"meta"}
    assert _chosen(found.scores[0].T, found.scores[0].T).device.type == "meta"

"""Own detectors: their targets, views and loss, and their ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cachenet.models.detect.augment import view
from cachenet.models.detect.export import export
from cachenet.models.detect.loss import loss
from cachenet.models.detect.network import MULTIPLE, STRIDE, HeatmapNet, HeatmapShape, input_size, peaks
from cachenet.models.detect.targets import HEAT, WEIGHT, targets
from cachenet.shared.cascade.detect.detections import Detections, checked, iou
from cachenet.shared.inference.decoders import Decoder, decode
from cachenet.shared.inference.engine import Session

ROWS, COLUMNS, CLASSES = 12, 16, 2
SIZE = (COLUMNS * STRIDE, ROWS * STRIDE)
NETWORK = HeatmapShape((8, 8, 16), CLASSES)


@st.composite
def objects(draw: st.DrawFn) -> Detections:
    """Up to six objects of two labels, with scores above and below a threshold of 0.4."""
    share = st.floats(0, 1, width=32)
    rows = draw(st.lists(st.tuples(share, share, share, share, st.integers(0, 1), share), max_size=6))
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d, _, _ in rows]
    return checked(np.array(boxes).reshape(-1, 4), [row[4] for row in rows], [row[5] for row in rows], CLASSES)


def centres(found: Detections) -> list[tuple[int, int, int]]:
    """Label, row and column of the cell of each object. Edges are scaled in float32: a centre can be between cells."""
    edges = (found.boxes * np.array([COLUMNS, ROWS, COLUMNS, ROWS], np.float32)).astype(float)
    middle = (edges[:, :2] + edges[:, 2:]) / 2
    cells = np.minimum(middle.astype(int), (COLUMNS - 1, ROWS - 1))
    return [(label, y, x) for label, (x, y) in zip(found.labels.tolist(), cells.tolist(), strict=True)]


@given(objects())
def test_the_heat_is_one_at_the_centres_of_sure_objects_alone(found: Detections) -> None:
    heat = targets(found, 0.4, CLASSES, ROWS, COLUMNS)[HEAT:]
    ones = {tuple(cell) for cell in np.argwhere(heat == 1).tolist()}
    assert ones == set(centres(found.take(found.scores >= 0.4)))
    assert heat.min() >= 0
    assert not found.scores.size or heat.max() > 0


@given(objects())
def test_a_decoded_target_is_the_objects_themselves(found: Detections) -> None:
    """The decoder of bundles reads a target as boxes that are those of the objects, where no two share a cell."""
    sure = found.take(found.scores >= 0.4)
    target = targets(found, 0.4, CLASSES, ROWS, COLUMNS)
    peaked = np.concatenate([target[:4], np.where(target[HEAT:] == 1, 1.0, 0.0)])[None].astype(np.float32)
    decoded = decode([peaked], Decoder("heatmap", (0, 1)), SIZE)
    cells = [cell[1:] for cell in centres(sure)]
    alone = [row for row, cell in enumerate(cells) if cells.count(cell) == 1]
    overlap = iou(sure.boxes[alone], decoded.boxes) * (sure.labels[alone][:, None] == decoded.labels[None])
    assert (overlap.max(1, initial=0) > 0.99).all()


@given(objects())
@example(checked(np.array([[0, 1e-5, 1, 0.99999]], np.float32), [0], [1.0], CLASSES))
def test_a_target_is_finite_and_weighs_only_cells_near_sure_objects(found: Detections) -> None:
    target = targets(found, 0.4, CLASSES, ROWS, COLUMNS)
    assert np.isfinite(target).all()
    cells = [cell[1:] for cell in centres(found.take(found.scores >= 0.4))]
    near = {(y + dy, x + dx) for y, x in cells for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    assert {tuple(cell) for cell in np.argwhere(target[WEIGHT] > 0).tolist()} == {
        (y, x) for y, x in near if 0 <= y < ROWS and 0 <= x < COLUMNS
    }


@given(objects(), st.integers(0, 2**32 - 1))
def test_a_view_has_the_size_of_the_picture_and_boxes_inside_it(found: Detections, seed: int) -> None:
    image = np.full((SIZE[1], SIZE[0], 3), 100, np.uint8)
    shown, moved = view(image, found, CLASSES, np.random.default_rng(seed))
    assert (shown.shape, shown.dtype) == (image.shape, np.uint8)
    assert len(moved) <= len(found)
    assert moved.boxes.size == 0 or 0 <= moved.boxes.min() <= moved.boxes.max() <= 1


@pytest.mark.parametrize("seed", range(20))
def test_the_objects_of_a_view_are_where_the_picture_shows_them(seed: int) -> None:
    """A white square on black: its box in a view is where the view is bright."""
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    image[32:56, 40:64] = 255
    box = np.array([[40 / 128, 32 / 96, 64 / 128, 56 / 96]])
    shown, moved = view(image, checked(box, [0], [0.9], 1), 1, np.random.default_rng(seed))
    left, top, right, bottom = np.rint(moved.boxes[0] * np.tile(SIZE, 2)).astype(int)
    inside = shown[top + 2 : bottom - 2, left + 2 : right - 2].mean()
    outside = shown[40:56, [left - 4, right + 4]].mean() if left >= 4 and right + 4 < SIZE[0] else 0
    assert inside > 120 > outside + 60 or inside - outside > 60


def test_the_loss_of_a_perfect_output_is_least() -> None:
    found = checked([[0.1, 0.1, 0.3, 0.5], [0.6, 0.4, 0.7, 0.9]], [0, 1], [0.9, 0.8], CLASSES)
    target = torch.from_numpy(targets(found, 0.4, CLASSES, ROWS, COLUMNS))[None]
    perfect = torch.cat([target[:, :4], torch.where(target[:, HEAT:] == 1, 9.0, -9.0)], 1)
    value = float(loss([perfect], target))
    assert value < 0.01
    for channel, change in ((0, 0.5), (3, 0.5), (4, -12.0)):
        worse = perfect.clone()
        worse[:, channel] += change
        assert float(loss([worse], target)) > value + 0.01


def test_no_object_has_a_finite_loss() -> None:
    target = torch.from_numpy(targets(checked(np.zeros((0, 4)), [], [], CLASSES), 0.4, CLASSES, ROWS, COLUMNS))[None]
    assert torch.isfinite(loss([torch.zeros(1, 4 + CLASSES, ROWS, COLUMNS)], target))


@pytest.fixture(scope="module")
def network() -> HeatmapNet:
    """A network with statistics of its own in every normalisation."""
    torch.manual_seed(1)
    made = HeatmapNet(NETWORK)
    with torch.no_grad():
        for _ in range(3):
            made(torch.randn(4, 3, SIZE[1], SIZE[0]))
    return made.eval()


def test_the_exported_graph_gives_what_the_network_gives(network: HeatmapNet, tmp_path: Path) -> None:
    """One output ``(1, 4 + classes, rows, columns)``; scores are 0 wherever a neighbour is higher."""
    path = tmp_path / "model.onnx"
    export(network, SIZE, path, {})
    image = np.random.default_rng(0).normal(size=(1, 3, SIZE[1], SIZE[0])).astype(np.float32)
    [output] = Session(path, "cpu").run_all(image)
    assert output.shape == (1, 4 + CLASSES, ROWS, COLUMNS)
    with torch.no_grad():
        expected = peaks(network(torch.from_numpy(image))).numpy()
    np.testing.assert_allclose(output[:, :4], expected[:, :4], atol=5e-3)
    both = (output[:, 4:] > 0) & (expected[:, 4:] > 0)
    assert both.sum() >= 0.95 * (expected[:, 4:] > 0).sum()  # float16 weights decide some ties otherwise
    np.testing.assert_allclose(output[:, 4:][both], expected[:, 4:][both], atol=5e-3)
    padded = np.pad(output[0, 4:], ((0, 0), (1, 1), (1, 1)))
    for label, y, x in np.argwhere(output[0, 4:] > 0).tolist():
        assert output[0, 4 + label, y, x] == padded[label, y : y + 3, x : x + 3].max()


def test_two_exports_are_the_same_bytes(network: HeatmapNet, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(network, SIZE, tmp_path / name, {"labels": "a,b"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@given(st.integers(1, 8000), st.integers(1, 8000))
def test_an_input_has_whole_cells_and_about_the_area(width: int, height: int) -> None:
    wide, high = input_size((width, height), 384 * 288)
    assert wide % MULTIPLE == high % MULTIPLE == 0
    assert 0.7 < wide * high / (384 * 288) < 1.4

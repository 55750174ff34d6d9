"""Each decoder finds the boxes that a tensor was made from, and refuses or drops what is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.inference.decoders import (
    DECODER_KINDS,
    MAX_CANDIDATES,
    Candidates,
    DecodeError,
    Decoder,
    DecoderKind,
    decode,
    strides,
)

WIDTH, HEIGHT = 128, 96
SIZE = (WIDTH, HEIGHT)
CLASSES = 3
Arrays = list[npt.NDArray[Any]]


class Objects:
    """Objects in distinct cells of the stride 8: ``boxes`` in pixels ``(n, 4)``, classes and scores."""

    def __init__(self, seed: int, count: int) -> None:
        rng = np.random.default_rng(seed)
        self.cells = rng.choice(WIDTH // 8 * (HEIGHT // 8), count, replace=False)
        y, x = np.divmod(self.cells, WIDTH // 8)
        self.centres = (np.stack([x, y], 1) + rng.uniform(0.05, 0.95, (count, 2))) * 8
        self.sizes = rng.uniform(17, 40, (count, 2))  # the corner of the cell is inside
        self.classes = rng.integers(0, CLASSES, count)
        self.scores = rng.uniform(0.5, 0.99, count)
        self.boxes = np.concatenate([self.centres - self.sizes / 2, self.centres + self.sizes / 2], 1)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def corners(self) -> npt.NDArray[Any]:
        """Top left corners of the cells, pixels ``(n, 2)``."""
        return np.stack([self.cells % (WIDTH // 8), self.cells // (WIDTH // 8)], 1) * 8.0


def table(cells: int, columns: int) -> npt.NDArray[np.float32]:
    """An empty output with a row for each cell."""
    return np.zeros((cells, columns), np.float32)


#: Cells of the strides 8, 16 and 32, and with 64.
CELLS3, CELLS4 = 12 * 16 + 6 * 8 + 3 * 4, 12 * 16 + 6 * 8 + 3 * 4 + 2 * 2


def ssd(o: Objects) -> Arrays:
    shares = o.boxes / np.array([*SIZE, *SIZE])
    return [shares[None].astype(np.float32), o.classes[None].astype(np.float32), o.scores[None].astype(np.float32)]


def ssd_scores(o: Objects) -> Arrays:
    scores = np.full((1, len(o), CLASSES), 0.01, np.float32)
    scores[0, np.arange(len(o)), o.classes] = o.scores
    return [ssd(o)[0], scores]


def yolox(o: Objects) -> Arrays:
    rows = table(CELLS3, 5 + CLASSES)
    rows[o.cells, :2] = (o.centres - o.corners) / 8
    rows[o.cells, 2:4] = np.log(o.sizes / 8)
    rows[o.cells, 4] = 0.999
    rows[o.cells, 5 + o.classes] = o.scores / 0.999
    return [rows[None]]


def yolov5(o: Objects) -> Arrays:
    rows = table(3 * CELLS3, 5 + CLASSES)
    rows[o.cells, :4] = np.concatenate([o.centres, o.sizes], 1)
    rows[o.cells, 4] = 0.999
    rows[o.cells, 5 + o.classes] = o.scores / 0.999
    return [rows[None]]


def yolov8(o: Objects) -> Arrays:
    rows = table(CELLS3, 4 + CLASSES)
    rows[o.cells, :4] = np.concatenate([o.centres, o.sizes], 1)
    rows[o.cells, 4 + o.classes] = o.scores
    return [rows.T[None]]


def nanodet(o: Objects, cells: int = CELLS4, offset: float = 0.0) -> Arrays:
    rows = table(cells, CLASSES + 4 * 8)
    rows[o.cells, o.classes] = o.scores
    sides = np.abs(o.boxes - np.tile(o.corners + 8 * offset, 2)) / 8  # left, top, right, bottom
    low = np.floor(sides).astype(int)
    bins = np.full((len(o), 4, 8), -1e3, np.float32)
    with np.errstate(divide="ignore"):
        np.put_along_axis(bins, low[..., None], np.log(1 - (sides - low))[..., None], 2)
        np.put_along_axis(bins, low[..., None] + 1, np.log(sides - low)[..., None], 2)
    rows[o.cells, CLASSES:] = bins.reshape(-1, 32)
    return [rows[None]]


def fastestdet(o: Objects) -> Arrays:
    rows = table(12 * 16, 5 + CLASSES)
    rows[o.cells, 0] = o.scores ** (1 / 0.6)
    rows[o.cells, 1:3] = np.arctanh((o.centres - o.corners) / 8)
    shares = o.sizes / np.array(SIZE)
    rows[o.cells, 3:5] = np.log(shares / (1 - shares))
    rows[o.cells, 5 + o.classes] = 1
    return [rows.T.reshape(1, -1, 12, 16)]


def detr(o: Objects) -> Arrays:
    logits = np.full((1, len(o), CLASSES), -6, np.float32)
    logits[0, np.arange(len(o)), o.classes] = np.log(o.scores / (1 - o.scores))
    boxes = np.concatenate([o.centres / np.array(SIZE), o.sizes / np.array(SIZE)], 1)
    return [logits, boxes[None].astype(np.float32)]


def detr_softmax(o: Objects) -> Arrays:
    logits, boxes = detr(o)
    odds = np.full((1, len(o), CLASSES + 1), -50, np.float32)
    odds[0, np.arange(len(o)), o.classes] = logits.max(2)[0]
    odds[..., -1] = 0
    return [odds, boxes]


def heatmap(o: Objects) -> Arrays:
    rows = table(12 * 16, 4 + CLASSES)
    rows[o.cells, :2] = (o.centres - o.corners) / 8
    rows[o.cells, 2:4] = np.log(o.sizes / 8)
    rows[o.cells, 4 + o.classes] = o.scores
    return [rows.T.reshape(1, -1, 12, 16)]


def of(kind: DecoderKind, **more: Any) -> Decoder:
    return Decoder(kind, tuple(range(CLASSES)), **more)


ENCODERS: dict[str, tuple[Callable[[Objects], Arrays], Decoder]] = {
    "ssd": (ssd, of("ssd")),
    "ssd with scores": (ssd_scores, of("ssd")),
    "yolox": (yolox, of("yolox")),
    "yolov5": (yolov5, of("yolov5")),
    "yolov8": (yolov8, of("yolov8")),
    "nanodet-plus": (nanodet, of("nanodet")),
    "nanodet": (lambda o: nanodet(o, CELLS3, 0.5), of("nanodet")),
    "fastestdet": (fastestdet, of("fastestdet")),
    "detr": (detr, of("detr")),
    "detr with no object": (detr_softmax, of("detr", no_object=True)),
    "heatmap": (heatmap, of("heatmap")),
}


def test_every_kind_is_tested() -> None:
    assert {decoder.kind for _, decoder in ENCODERS.values()} == set(DECODER_KINDS)


@pytest.mark.parametrize("name", ENCODERS)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 30))
def test_the_boxes_of_a_tensor_are_found(name: str, seed: int, count: int) -> None:
    encode, decoder = ENCODERS[name]
    objects = Objects(seed, count)
    found = decode(encode(objects), decoder, SIZE)
    order = np.argsort(-objects.scores)
    assert found.labels.tolist() == objects.classes[order].tolist()
    np.testing.assert_allclose(found.scores, objects.scores[order], atol=1e-4)
    expected = objects.boxes / np.array([*SIZE, *SIZE])
    np.testing.assert_allclose(found.boxes, expected[order].reshape(-1, 4), atol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
@given(seed=st.integers(0, 2**32 - 1), classes=st.permutations(range(CLASSES)), labels=st.integers(1, CLASSES))
def test_some_classes_give_their_part_of_all_detections(
    name: str, seed: int, classes: Sequence[int], labels: int
) -> None:
    encode, decoder = ENCODERS[name]
    outputs, chosen = encode(Objects(seed, 20)), tuple(classes[:labels])
    every = decode(outputs, decoder, SIZE)
    some = decode(outputs, msgspec.structs.replace(decoder, classes=chosen), SIZE)
    rows = np.isin(every.labels, chosen)
    assert [chosen[label] for label in some.labels] == every.labels[rows].tolist()
    np.testing.assert_array_equal(some.boxes, every.boxes[rows])


@pytest.mark.parametrize("name", ENCODERS)
def test_the_score_is_the_least_of_a_detection(name: str) -> None:
    encode, decoder = ENCODERS[name]
    objects = Objects(3, 30)
    found = decode(encode(objects), msgspec.structs.replace(decoder, score=0.75), SIZE)
    assert 0 < len(found.scores) == (objects.scores >= 0.75).sum() < 30


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_numbers_that_are_no_box_are_dropped(name: str, bad: float) -> None:
    """Whatever a tensor holds: results are finite, have an area and a score."""
    encode, decoder = ENCODERS[name]
    for seed in range(20):
        outputs = encode(Objects(seed, 20))
        rng = np.random.default_rng(seed)
        for output in outputs:
            output[rng.random(output.shape) < 0.1] = bad
        found = decode(outputs, decoder, SIZE)
        assert len(found.scores) < 20 or len(outputs) == 1
        assert np.isfinite(found.boxes).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert ((found.scores >= decoder.score) & (found.scores <= 1)).all()
        assert ((found.labels >= 0) & (found.labels < CLASSES)).all()


@pytest.mark.parametrize("equal", [False, True])
def test_ten_thousand_boxes_are_bounded_by_score(equal: bool) -> None:
    rng = np.random.default_rng(0)
    corners = rng.random((1, 10_000, 2), np.float32) * 0.8
    scores = np.full((1, 10_000), 0.9, np.float32) if equal else rng.uniform(0.5, 1, (1, 10_000)).astype(np.float32)
    outputs = [np.concatenate([corners, corners + 0.1], 2), np.zeros((1, 10_000), np.float32), scores]
    found = decode(outputs, of("ssd"), SIZE)
    assert len(found.scores) == MAX_CANDIDATES
    assert found.scores.tolist() == np.sort(scores[0])[::-1][:MAX_CANDIDATES].tolist()


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_changes_nothing(seed: int) -> None:
    objects = Objects(seed, 30)
    objects.scores[:] = np.random.default_rng(seed).choice([0.6, 0.7], 30)
    outputs = ssd(objects)
    order = np.random.default_rng(seed).permutation(30)
    first, again = decode(outputs, of("ssd"), SIZE), decode([one[:, order] for one in outputs], of("ssd"), SIZE)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def decoded(outputs: Arrays, decoder: Decoder) -> Candidates | None:
    """The boxes of any outputs; None where they are refused in one line."""
    try:
        return decode(outputs, decoder, SIZE)
    except DecodeError as error:
        assert "\n" not in str(error)
        return None


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("kind", DECODER_KINDS)
def test_outputs_of_another_detector_are_refused_or_bounded(name: str, kind: DecoderKind) -> None:
    encode, _ = ENCODERS[name]
    found = decoded(encode(Objects(1, 20)), of(kind, score=0.0))
    assert found is None or len(found.scores) <= MAX_CANDIDATES


@pytest.mark.parametrize("kind", DECODER_KINDS)
@pytest.mark.parametrize(
    "shape",
    [(), (0,), (1,), (1, 7), (2, 5, 9), (1, 0, 9), (0, 3, 4), (1, 3, 3), (1, 9, 0, 0), (1, 9, 3, 0), (1, 2, 3, 4, 5)],
)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_shapes_of_no_detector_give_no_boxes(kind: DecoderKind, shape: tuple[int, ...], count: int) -> None:
    found = decoded([np.zeros(shape)] * count, of(kind))
    assert found is None or not len(found.scores)


def test_a_label_of_a_class_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(DecodeError, match="class 9, and the model has 3 classes"):
        decode(yolov8(Objects(0, 3)), Decoder("yolov8", (0, 9)), SIZE)


def test_strides_follow_from_the_number_of_cells() -> None:
    assert strides(3549, (416, 416)) == (8, 16, 32)
    assert strides(756, (192, 192)) == (8, 16, 32)
    assert strides(169, (416, 416)) == (32,)
    assert strides(CELLS4, SIZE) == (8, 16, 32, 64)
    assert strides(3550, (416, 416)) == ()


def test_a_plain_decoder_is_short_in_a_manifest() -> None:
    plain, full = Decoder("yolox", (0,)), Decoder("nanodet", (0, 2), 0.3, 0.5, 11, no_object=True)
    assert msgspec.json.encode(plain) == b'{"kind":"yolox","classes":[0]}'
    for decoder in (plain, full):
        assert msgspec.json.decode(msgspec.json.encode(decoder), type=Decoder) == decoder
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"kind":"yolo9","classes":[0]}', type=Decoder)

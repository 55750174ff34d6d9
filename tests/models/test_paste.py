"""Objects of the footage in other places of its own pictures."""

from __future__ import annotations

import numpy as np
import pytest

from cachenet.models.detect.footage import Block
from cachenet.models.detect.paste import Paster
from cachenet.shared.cascade.detect.detections import Detections, checked

HEIGHT, WIDTH = 90, 120


def frame(number: int) -> tuple[np.ndarray, Detections]:
    """A dark scene with a white object that moves; it is larger near the lower edge."""
    picture = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    foot = 30 + number
    height = foot // 3
    left = 10 + (37 * number) % 90
    picture[foot - height : foot, left : left + height // 2] = 220
    box = [left / WIDTH, (foot - height) / HEIGHT, (left + height // 2) / WIDTH, foot / HEIGHT]
    return picture, checked([box], [0], [0.9], 1)


@pytest.fixture(scope="module")
def block() -> Block:
    frames = [frame(number) for number in range(60)]
    pictures = np.stack([picture for picture, _ in frames])
    return Block(pictures, tuple(found for _, found in frames), np.zeros(60, np.int64), 0.4)


def pasted(block: Block) -> list[tuple[int, np.ndarray, Detections]]:
    paste, rng = Paster(block), np.random.default_rng(0)
    made = [(row, *paste(block.pictures[row], block.objects[row], rng)) for row in range(60)]
    return [one for one in made if len(one[2]) > 1]


def test_pasted_objects_look_like_objects_and_have_boxes(block: Block) -> None:
    made = pasted(block)
    assert len(made) > 10
    for row, picture, found in made:
        for left, top, right, bottom in found.boxes[1:].tolist():
            inside = picture[round(top * HEIGHT) : round(bottom * HEIGHT), round(left * WIDTH) : round(right * WIDTH)]
            assert inside.mean() > 150
        assert (block.pictures[row] != picture).any()


def test_a_pasted_object_has_the_size_of_objects_at_that_place(block: Block) -> None:
    for _, _, found in pasted(block):
        for _, top, _, bottom in found.boxes[1:].tolist():
            assert (bottom - top) / bottom == pytest.approx(1 / 3, rel=0.35)


def test_the_pictures_of_the_block_do_not_change(block: Block) -> None:
    before = block.pictures.copy()
    pasted(block)
    assert (before == block.pictures).all()


def test_footage_without_objects_that_stand_out_is_not_pasted(block: Block) -> None:
    still = Block(np.full_like(block.pictures, 30), block.objects, block.sequences, block.score)
    assert not Paster(still).useful
    assert Paster(block).useful


def test_footage_of_a_moving_camera_is_not_pasted(block: Block) -> None:
    rng = np.random.default_rng(0)
    moving = np.stack([np.roll(rng.integers(0, 255, (HEIGHT, WIDTH, 3)), number, 1) for number in range(60)])
    assert not Paster(Block(moving.astype(np.uint8), block.objects, block.sequences, block.score)).useful

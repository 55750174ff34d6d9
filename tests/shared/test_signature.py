"""The signature of a picture: what it looks like from afar, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.inference.image import Picture
from cachenet.shared.media.signature import sign


def drawn(height: int, width: int, seed: int = 0) -> Picture:
    """Large blocks of random colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3))
    rows, columns = np.arange(height) * 3 // height, np.arange(width) * 4 // width
    return coarse[rows][:, columns].astype(np.uint8)


@given(st.integers(1, 400), st.integers(1, 400))
def test_a_picture_of_any_size_has_a_signature(height: int, width: int) -> None:
    found = sign(drawn(height, width))
    assert found.blocks.shape == (12, 16) and found.thumbnail.shape == (24, 32)
    assert found.blocks.dtype == found.thumbnail.dtype == np.float32
    for part in (found.blocks, found.thumbnail):
        assert part.min() >= 0.0 and part.max() <= 255.0


@pytest.mark.parametrize(("height", "width"), [(480, 640), (1080, 1920), (240, 320)])
def test_it_hardly_depends_on_the_resolution(height: int, width: int) -> None:
    small, large = sign(drawn(120, 160)), sign(drawn(height, width))
    assert np.abs(small.blocks - large.blocks).mean() < 4.0


def test_the_signature_of_a_grey_picture_is_that_grey() -> None:
    found = sign(np.full((480, 640, 3), 90, np.uint8))
    assert (found.blocks == 90.0).all() and (found.thumbnail == 90.0).all()


def test_a_signature_averages_noise_and_shows_changes() -> None:
    scene = drawn(480, 640)
    noise = np.random.default_rng(1).normal(0.0, 3.0, scene.shape)
    again = np.clip(scene + noise, 0, 255).astype(np.uint8)
    changed = scene.copy()
    changed[200:300, 200:300] = 255 - changed[200:300, 200:300]
    before = sign(scene).blocks
    assert np.abs(sign(again).blocks - before).max() < 4.0
    assert np.abs(sign(changed).blocks - before).max() > 20.0

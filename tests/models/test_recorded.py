"""Recording of models: each model sees the part of a cropped picture that it would have seen of the frame."""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import pytest

from cachenet.models.certify import traces
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Split
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, crop

FULL = Input(64, (0.0,) * 3, (1.0,) * 3, crop=0.8)


def frame(seed: int = 0) -> np.ndarray:
    """A frame without fine detail, which scaling would lose."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(("side", "share"), [(48, 0.8), (48, 0.6), (64, 0.6), (80, 0.7)])
def test_a_model_sees_the_same_part_of_a_cropped_picture_as_of_the_frame(side: int, share: float) -> None:
    spec = Input(side, FULL.mean, FULL.std, crop=share)
    of_frame = crop(frame(), spec).astype(float)
    of_crop = traces.view(crop(frame(), FULL), spec, FULL).astype(float)
    assert np.abs(of_crop - of_frame).mean() < 3.0
    if share != FULL.crop:
        whole = cv2.resize(crop(frame(), FULL), (side, side))
        assert np.abs(whole - of_frame).mean() > 6.0, "the whole crop is another part"


def test_a_model_with_a_wider_view_sees_the_whole_cropped_picture() -> None:
    picture = crop(frame(), FULL)
    wider = Input(64, FULL.mean, FULL.std, crop=1.0)
    np.testing.assert_array_equal(traces.view(picture, wider, FULL), picture)


def test_frames_are_cropped_for_each_model() -> None:
    spec = Input(48, FULL.mean, FULL.std, crop=0.6)
    for cropped_by in (FULL, None):
        np.testing.assert_array_equal(traces.view(frame(), spec, cropped_by), crop(frame(), spec))


class Mirror:
    """A session whose outputs are the mean of each colour."""

    batch = None

    def run(self, batch: np.ndarray) -> np.ndarray:
        return batch.mean((2, 3))


@pytest.mark.parametrize("name", ["camera", "held", "dwell"])
def test_each_model_sees_its_own_view_in_every_kind_of_stream(name: streams.StreamName) -> None:
    spec = Input(48, FULL.mean, FULL.std, crop=0.5)
    images = np.stack([crop(frame(seed), FULL) for seed in range(40)])
    split = Split(images, np.arange(40) % 10)
    plan = streams.schedule(name, split.labels, 0, 130)
    models = {"full": (cast(Session, Mirror()), FULL), "base": (cast(Session, Mirror()), spec)}
    [stream] = traces.record_streams([plan], split, models, cropped_by=FULL)
    draw = streams.renderer(plan, images)
    for index in (0, 99, 100, 129):
        picture = draw(index)
        for model, own in (("full", FULL), ("base", spec)):
            expected = traces.view(picture, own, FULL)[:, :, ::-1].mean((0, 1))
            np.testing.assert_allclose(stream.logits[model][index], expected, rtol=1e-4)
    assert (picture.shape == (480, 640, 3)) == (name == "camera")

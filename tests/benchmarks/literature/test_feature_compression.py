"""Properties of the parts of the row ``feature-compression``, and a short run of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("torch")
pytest.importorskip("constriction")

import torch

from benchmarks.literature.feature_compression import bandwidth, pictures, question_time
from benchmarks.literature.feature_compression.autoencoder import Selection, Transform
from benchmarks.literature.feature_compression.bandwidth import Sent
from benchmarks.literature.feature_compression.codec import Codec
from benchmarks.literature.feature_compression.pictures import Setting
from benchmarks.literature.feature_compression.split_model import Layers, resnet_part
from cachenet.models.data import cifar10
from cachenet.shared.bundle import zoo

INTEGERS = arrays.arrays(np.int32, (4, 3, 2, 5), elements=st.integers(-128, 127))


@settings(deadline=None, max_examples=50)
@given(INTEGERS, INTEGERS)
def test_decoded_integers_are_the_encoded_ones_within_the_codec_s_range(known: np.ndarray, coded: np.ndarray) -> None:
    codec = Codec(known)
    for one, clipped in zip(coded, codec.clip(coded), strict=True):
        assert (codec.decode(codec.encode(one)) == clipped).all()
    assert (codec.clip(known) == known).all()


def test_bytes_come_near_the_entropy_of_the_integers() -> None:
    integers = np.random.default_rng(0).choice(4, (40, 2, 16, 16), p=(0.7, 0.2, 0.05, 0.05)).astype(np.int32)
    codec = Codec(integers[:20])
    shares = np.bincount(integers[20:].ravel()) / integers[20:].size
    entropy = -(shares * np.log2(shares)).sum() * integers[0].size / 8
    mean = np.mean([len(codec.encode(one)) for one in integers[20:]])
    assert entropy <= mean <= 1.05 * entropy + 4


def test_a_constant_channel_costs_no_bytes() -> None:
    assert Codec(np.full((3, 2, 4, 4), 7, np.int32)).encode(np.full((2, 4, 4), 7, np.int32)) == b""


def test_both_parts_compute_what_the_model_computes() -> None:
    split = resnet_part(zoo.find("cifar10") / "full/1/model.onnx", cifar10.INPUT.side)
    x = torch.rand(1, 3, 32, 32)
    device, server = split.parts
    with torch.no_grad():
        features = device(x)
        assert torch.allclose(server(features), Layers(split.model)(x), atol=1e-4)
    assert features.shape[1:] == split.shape
    assert 0 < split.device_cost.macs < split.cost.macs / 4


def test_a_level_sends_its_number_of_channels_and_bits() -> None:
    features = torch.rand(2, 6, 8, 8)
    order, weights = torch.tensor([4, 1, 0, 2, 3, 5]), torch.linspace(0.9, 0.1, 6)
    coder = Selection((6, 8, 8), order, weights, features.amax((0, 2, 3))[order], ((1, 2), (3, 4)))
    for level, (channels, largest) in enumerate([(1, 3), (3, 15)]):
        integers = coder.encode(features, torch.full((2,), level))
        assert torch.allclose(integers, integers.round(), atol=1e-4)
        assert not integers[:, channels:].any()
        assert integers[:, :channels].amax() <= largest + 1e-3
        assert integers[:, :channels].amax() >= largest - 1e-3
    assert coder.decode(integers, torch.ones(2, dtype=torch.int64)).shape == features.shape


def test_features_that_vary_less_have_a_smaller_rate_penalty() -> None:
    coder = Transform((4, 10, 10), torch.arange(2), torch.ones(2), sent=3, levels=2)
    level = torch.zeros(1, dtype=torch.int64)
    integers = coder.encode(torch.rand(1, 4, 10, 10), level)
    assert integers.shape == (1, 3, 3, 3)
    assert coder.decode(integers, level).shape == (1, 4, 10, 10)
    assert coder.bits(torch.zeros(1, 3, 3, 3), level) < coder.bits(torch.full((1, 3, 3, 3), 9.0), level)


def test_gradients_pass_the_quantiser() -> None:
    coder = Transform((4, 8, 8), torch.arange(4), torch.ones(4), sent=2, levels=1)
    level = torch.zeros(3, dtype=torch.int64)
    coder.decode(coder.encode(torch.rand(3, 4, 8, 8), level), level).sum().backward()
    assert all(weight.grad is not None for weight in coder.encoder.parameters())


def test_a_png_is_the_picture_and_constant_bytes_do_not_count() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    nbytes, received = pictures.compress(picture, Setting("png", 32))
    assert (received == picture).all()
    assert nbytes >= 0.9 * picture.size
    flat = np.full((32, 32, 3), 90, np.uint8)
    for kind, quality in (("png", 0), ("webp", 50), ("jpeg", 50)):
        nbytes, received = pictures.compress(flat, Setting(kind, 16, quality))
        assert 0 < nbytes < 60
        assert received.shape == flat.shape
    _, data = cv2.imencode(".jpg", flat)
    assert len(data) > 600


def _sent(nbytes: float, right: int, count: int = 40) -> Sent:
    return Sent("one", np.full(count, float(nbytes)), (np.arange(count) < right).astype(np.float64))


def test_a_rival_may_mix_two_settings() -> None:
    nbytes, agreement = np.array([100.0, 300.0, 500.0]), np.array([0.8, 0.85, 1.0])
    assert bandwidth.cheapest(nbytes, agreement, 0.9) == pytest.approx(300)
    assert bandwidth.cheapest(nbytes, agreement, 0.7) == 100
    assert bandwidth.cheapest(nbytes, agreement, 1.01) == float("inf")


def test_half_the_bytes_at_equal_agreement_are_a_ratio_of_two() -> None:
    [row] = bandwidth.ratios([_sent(50, 30)], [_sent(100, 30), _sent(400, 40)], block=1)
    assert row["ratio"] == 2.0
    assert row["interval"][0] >= 1.99  # type: ignore[index]


def test_more_bytes_take_longer_and_outages_are_waited_for() -> None:
    work = question_time.Work(0.01, 0.02)
    few, many = (question_time.times(np.array([nbytes]), work, "3g", 50) for nbytes in (100.0, 5000.0))
    assert (many > few).all()
    assert few.min() > 0.12 + 0.03
    lossy = question_time.times(np.array([100.0]), work, "lossy", 100)
    assert lossy.max() > 1 > np.median(lossy)


@pytest.mark.slow
def test_the_row_runs(smoke: Callable[[str], dict[str, Any]]) -> None:
    assert {"selection", "transform", "rivals"} <= smoke("feature-compression")["o2"].keys()

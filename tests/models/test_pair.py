"""Ensemble of two networks in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cachenet.models.export.classifier import load_classifier
from cachenet.models.export.efficientnet import Lite
from cachenet.models.train import pair
from cachenet.models.train.networks import ResNet, Shape
from cachenet.shared.inference.engine import Session
from tests.models.test_efficientnet import weights

SIDE, CLASSES = 16, 5
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)


@pytest.fixture(scope="module")
def networks() -> tuple[Lite, ResNet]:
    torch.manual_seed(0)
    lite = Lite(weights(), CLASSES, 4 * SIDE, MEAN, STD).eval()
    return lite, ResNet(Shape(widths=(4, 8), blocks=(1, 1), classes=CLASSES)).eval()


def test_the_pair_gives_the_weighted_sum_of_both_networks(networks: tuple[Lite, ResNet], tmp_path: Path) -> None:
    path = tmp_path / "pair.onnx"
    pair.write_pair(*networks, (0.7, 0.4), SIDE, path, {})
    images = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        outputs = [network(images).numpy() for network in networks]
    expected = 0.7 * outputs[0] + 0.4 * outputs[1]
    np.testing.assert_allclose(Session(path, "cpu").run(images.numpy()), expected, atol=0.06 * expected.std())


def test_the_builder_finds_the_embedding_of_a_pair(networks: tuple[Lite, ResNet], tmp_path: Path) -> None:
    path = tmp_path / "pair.onnx"
    properties = {"labels": "a,b,c,d,e", "input": '{"side": 16, "mean": [0, 0, 0], "std": [1, 1, 1]}'}
    pair.write_pair(*networks, (0.7, 0.4), SIDE, path, properties)
    classifier = load_classifier(path)
    assert (classifier.input.side, classifier.scores, classifier.embedding) == (SIDE, "scores", "embedding")


def test_the_better_network_gets_the_larger_calibrated_weight() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 2000)
    right = np.where(rng.random(2000) < 0.9, labels, rng.integers(0, CLASSES, 2000))
    good = torch.from_numpy(np.eye(CLASSES, dtype=np.float32)[right])
    random = torch.from_numpy(np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, 2000)])
    shares = pair.fit(good, random, torch.from_numpy(labels))
    assert shares[0] == pytest.approx(np.log(0.92 * (CLASSES - 1) / 0.08), rel=0.1)
    assert abs(shares[1]) < 0.35

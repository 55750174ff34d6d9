"""The converting autoencoder: representative pictures, arms that are comparable, and the paired comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from benchmarks.literature.converting_autoencoder.measure import FALSE, compare
from benchmarks.literature.converting_autoencoder.network import ConvertingAutoencoder
from benchmarks.literature.converting_autoencoder.representatives import representatives
from benchmarks.literature.converting_autoencoder.students import ARMS, TrainingSetup, train
from cachenet.models.data.cifar10 import INPUT, cache_directory
from cachenet.models.train.distill import Teacher
from cachenet.models.train.networks import ResNet, Shape, macs

SHAPE = Shape((4, 8), (1, 1), classes=3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(1, 4))
def test_a_representative_picture_is_of_the_class_and_the_surest_of_its_cluster(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(40, 5)).astype(np.float32)
    logits = 3 * rng.normal(size=(40, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 40)
    found = representatives(embeddings, logits, labels, 0, count)
    assert (labels[found.rows][found.of] == labels).all()
    assert len(found.rows) <= count * len(np.unique(labels))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropy = -(probabilities * np.log(probabilities)).sum(1)
    for number, row in enumerate(found.rows.tolist()):
        members = np.flatnonzero(found.of == number)
        right = members[logits[members].argmax(1) == labels[members]]
        assert row in (right if len(right) else members)
        if len(right):
            assert entropy[row] <= entropy[right].min() + 1e-6


def test_without_its_decoder_the_network_gives_the_same_logits() -> None:
    torch.manual_seed(0)
    network = ConvertingAutoencoder(ResNet(SHAPE)).eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        picture, logits = network.heads(pictures)
        assert torch.equal(network.classifier(pictures), logits)
    assert picture.shape == (2, 3, 64, 64)


def test_all_arms_have_the_same_classifier_and_the_same_number_of_steps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (16, 16, 16, 3), np.uint8)
    outputs = np.column_stack([rng.normal(size=(16, 3)), rng.integers(0, 2, 16)]).astype(np.float32)
    teacher = Teacher(lambda _: outputs, images, 1, 0, tmp_path, Progress(console=Console(quiet=True)))
    setup = TrainingSetup("drawn", SHAPE, INPUT, teacher, images[:2], ((1, 8),), ((1, 8), (1, 16)), batch=8)
    steps: dict[str, int] = {}
    for arm in ARMS:
        lines: list[str] = []
        network = train(arm, setup, 0, tmp_path / arm, lines.append)
        assert macs(network) == macs(ResNet(SHAPE))
        steps[arm] = sum("an epoch is done" in line for line in lines)
        repeated: list[str] = []
        train(arm, setup, 0, tmp_path / arm, repeated.append)
        assert not any("an epoch is done" in line for line in repeated), "a finished arm is not trained again"
    assert steps == {"control": 3, "converting": 3, "auxiliary": 3, "short": 2}


def test_an_arm_gains_nothing_over_itself_and_a_better_one_gains_agreement() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    poor = rng.normal(size=(400, 3)).astype(np.float32)
    good = poor + 2 * np.eye(3, dtype=np.float32)[labels]
    same = {arm: [(poor, poor)] for arm in ARMS}
    found = compare(same | {"converting": [(good, good)]}, labels, labels, consecutive=False)
    assert found["auxiliary"]["gain"]["agreement"]["mean"] == 0
    low, high = found["converting"]["gain"]["agreement"]["interval"]
    assert 0 < low < high
    for limit in FALSE:
        assert found["converting"]["false_hits"][str(limit)] <= limit


@pytest.mark.slow
@pytest.mark.skipif(not (cache_directory() / "cifar-10").is_dir(), reason="needs CIFAR-10")
def test_the_row_runs(smoke: Callable[[str], dict[str, Any]]) -> None:
    found = smoke("converting-autoencoder")
    assert set(found["ob"]["arms"]) == set(found["cifar10"]["arms"]) == set(ARMS)

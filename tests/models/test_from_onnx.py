"""Restoring a trainable network from its ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from cachenet.models.data import cifar10, sample
from cachenet.models.export.export import export
from cachenet.models.export.from_onnx import RestoreError, from_onnx
from cachenet.models.export.quantise import int8
from cachenet.models.train.networks import BASE, ResNet, Shape, macs, sized
from cachenet.models.train.training import normalise
from cachenet.shared.inference.engine import Session
from tests.hampered import base_network

pytestmark = pytest.mark.slow

ZOO = Path(__file__).parents[2] / "models" / "zoo" / "cifar10"
IMAGES = normalise(sample.load().images[:200], cifar10.INPUT).contiguous()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's INT8 base model in float16."""
    path = tmp_path_factory.mktemp("plain") / "model.onnx"
    export(base_network(), path, {})
    return path


def test_a_restored_network_gives_the_outputs_of_the_file(plain: Path) -> None:
    network = from_onnx(plain, IMAGES)
    expected = Session(plain, "cpu").run(IMAGES[:50].numpy())
    with torch.no_grad():
        np.testing.assert_allclose(network(IMAGES[:50]).numpy(), expected, atol=0.02)


def test_an_int8_file_is_restored_with_its_weights(plain: Path, tmp_path: Path) -> None:
    """Activations are no longer rounded, so the outputs differ slightly."""
    onnx.save(int8(onnx.load(str(plain)), IMAGES[:100].numpy()), str(tmp_path / "int8.onnx"))
    network = from_onnx(tmp_path / "int8.onnx", IMAGES)
    expected = Session(plain, "cpu").run(IMAGES.numpy())
    with torch.no_grad():
        again = network(IMAGES).numpy()
    assert (again.argmax(1) == expected.argmax(1)).mean() > 0.97
    assert np.abs(again - expected).mean() < 0.25


def test_outputs_are_nearly_the_same_in_training_mode() -> None:
    """Normalisation by batch statistics does not change the outputs much."""
    network = from_onnx(ZOO / "base" / "1" / "model.onnx", IMAGES)
    with torch.no_grad():
        quiet, training = network(IMAGES).argmax(1), network.train()(IMAGES).argmax(1)
    assert (quiet == training).float().mean() > 0.97


def test_restoring_and_exporting_again_changes_only_rounding(tmp_path: Path) -> None:
    shape = Shape(widths=(4, 8), blocks=(2, 1), classes=3, stem=4)
    torch.manual_seed(0)
    export(ResNet(shape).eval(), tmp_path / "a.onnx", {})
    images = torch.randn(16, 3, 64, 64)
    network = from_onnx(tmp_path / "a.onnx", images)
    assert network.shape == shape
    export(network, tmp_path / "b.onnx", {})
    first, second = (Session(tmp_path / name, "cpu").run(images.numpy()) for name in ("a.onnx", "b.onnx"))
    np.testing.assert_allclose(first, second, atol=0.02)


def test_a_file_of_another_exporter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(RestoreError, match="no ONNX file"):
        from_onnx(tmp_path / "x.onnx", IMAGES)


@pytest.mark.parametrize(("side", "limit"), [(32, 11_000_000), (32, 42_000_000), (224, 17_000_000), (224, 100_000_000)])
def test_a_sized_network_uses_most_of_its_budget_and_no_more(side: int, limit: int) -> None:
    shape = sized(limit, side, 10)
    assert 0.75 * limit < macs(ResNet(shape), side) <= limit


def test_the_base_shape_is_what_its_own_budget_gives() -> None:
    assert sized(macs(ResNet(BASE)), 32, 10) == BASE

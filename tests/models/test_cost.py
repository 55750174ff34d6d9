"""The cost of a graph equals the cost of its network."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from cachenet.models.export import cost
from cachenet.models.export.export import export
from cachenet.models.train.networks import BASE, ResNet, Shape, macs
from cachenet.shared.bundle.manifest import Bundle

ZOO = Path(__file__).parents[2] / "models" / "zoo" / "cifar10"


@pytest.mark.parametrize(("shape", "side"), [(BASE, 32), (Shape(widths=(4, 8), blocks=(2, 1), classes=7, stem=4), 64)])
def test_multiply_adds_of_a_graph_equal_those_of_its_network(tmp_path: Path, shape: Shape, side: int) -> None:
    network = ResNet(shape).eval()
    with torch.no_grad():
        export(network, tmp_path / "m.onnx", {})
    assert cost.macs(onnx.load(str(tmp_path / "m.onnx")), side) == macs(network, side)


@pytest.mark.parametrize("name", ["full", "base"])
def test_the_zoo_manifest_matches_its_graphs(name: str) -> None:
    bundle = Bundle(ZOO)
    model = onnx.load(str(bundle.path(name)))
    described = bundle.manifest.models[name]
    assert cost.macs(model, described.input.side) == described.macs
    # Each folded normalisation leaves a bias in place of gain, shift and statistics.
    assert cost.parameters(model) == pytest.approx(described.parameters, rel=0.02)

"""What a graph costs, against what the networks that it was written from say."""

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
def test_multiply_adds_are_the_networks_own(tmp_path: Path, shape: Shape, side: int) -> None:
    network = ResNet(shape).eval()
    with torch.no_grad():
        export(network, tmp_path / "m.onnx", {})
    assert cost.macs(onnx.load(str(tmp_path / "m.onnx")), side) == macs(network, side)


@pytest.mark.parametrize("name", ["full", "base"])
def test_the_zoo_says_of_itself_what_its_graphs_say(name: str) -> None:
    bundle = Bundle(ZOO)
    model = onnx.load(str(bundle.path(name)))
    described = bundle.manifest.models[name]
    assert cost.macs(model, described.input.side) == described.macs
    # Normalisation is folded into the convolutions: a bias in the place of a gain, a shift and their statistics.
    assert cost.parameters(model) == pytest.approx(described.parameters, rel=0.02)

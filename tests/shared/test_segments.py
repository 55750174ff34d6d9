"""Segments: run one after the other they say what the model says whole, wherever it may be cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from models import pair
from models.efficientnet import Lite
from models.export import export
from models.layers.cuts import Cut, cuts
from models.networks import ResNet, Shape
from shared.engine import Part
from shared.segments import SegmentError, cut, image, read
from tests.bundles import classifier
from tests.models.test_efficientnet import weights

SIDE, CLASSES = 16, 5


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    """A residual net, in which shortcuts run beside the layers."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("chain") / "model.onnx"
    export(ResNet(Shape(widths=(4, 8, 8), blocks=(2, 1, 2), classes=CLASSES)).eval(), path, {})
    return onnx.load(str(path))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> ModelProto:
    """Two networks side by side."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("two") / "model.onnx"
    lite = Lite(weights(), CLASSES, 4 * SIDE, (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)).eval()
    resnet = ResNet(Shape(widths=(32, 64), blocks=(1, 1), classes=CLASSES)).eval()
    pair.write_pair(lite, resnet, (0.7, 0.4), SIDE, path, {})
    return onnx.load(str(path))


def pieces(model: ModelProto, places: list[Cut], batch: np.ndarray) -> np.ndarray:
    held = {image(model): batch}
    for segment in cut(model, [place.tensors for place in places], SIDE):
        part = Part(segment.model.SerializeToString(), "segment", "cpu")
        held = held | part.run(held)
    return held[model.graph.output[0].name]


@pytest.mark.parametrize("name", ["chain", "two"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_anywhere_it_says_the_same(request: pytest.FixtureRequest, name: str, data: st.DataObject) -> None:
    model: ModelProto = request.getfixturevalue(name)
    found = cuts(model, SIDE, slots=40)
    assert len(found) >= 4
    some = data.draw(st.lists(st.sampled_from(range(len(found))), unique=True, max_size=5).map(sorted))
    batch = np.random.default_rng(len(some)).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    whole = Part(model.SerializeToString(), "whole", "cpu").run({image(model): batch})
    said = pieces(model, [found[number] for number in some], batch)
    np.testing.assert_allclose(said, whole[model.graph.output[0].name], rtol=1e-4, atol=1e-5)


def test_cuts_are_at_the_ends_of_blocks(chain: ModelProto) -> None:
    """Within a block the shortcut would have to be carried too."""
    found = cuts(chain, SIDE, slots=40)
    assert all(len(place.tensors) == 1 for place in found)
    ends = {"stem.relu", *(f"stage{s}.block{b}.out" for s in (1, 2, 3) for b in (1, 2))}
    assert {place.tensors[0] for place in found} <= ends
    assert [place.macs for place in found] == sorted(place.macs for place in found)
    assert all(0 < place.share < 1 for place in found)


def test_a_cut_carries_the_picture_beside_the_first_network_and_its_findings_beside_the_second(two: ModelProto) -> None:
    found = cuts(two, SIDE, slots=40)
    carried = {place.tensors[1] if len(place.tensors) > 1 else "" for place in found}
    assert "image" in carried and "lite.embedding" in carried
    assert all("image" not in place.features for place in found)
    second = next(place for place in found if place.tensors[-1] == "lite.embedding" and len(place.tensors) == 2)
    assert second.features == second.tensors, "a cache there sees both"


def test_a_model_without_layers_has_no_place(tmp_path: Path) -> None:
    path = tmp_path / "full" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    classifier(path, np.random.default_rng(0))
    assert cuts(onnx.load(str(path)), 32) == []


def test_a_place_that_is_none_is_refused(chain: ModelProto) -> None:
    with pytest.raises(SegmentError, match="cannot be made"):
        cut(chain, [["stage1.block1.conv1.relu"]], SIDE)
    with pytest.raises(SegmentError, match="nothing is done"):
        cut(chain, [["stem.relu"], ["stem.relu"]], SIDE)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(SegmentError, match=r"model\.onnx"):
        read(tmp_path / "model.onnx")

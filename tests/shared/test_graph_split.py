"""Segments of a model, run one after the other, compute what the whole model computes, at every split site."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cachenet.models.exits.sites import Site, find_sites
from cachenet.models.export.efficientnet import Lite
from cachenet.models.export.export import export
from cachenet.models.train import pair
from cachenet.models.train.networks import ResNet, Shape
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.graph_split import SegmentError, cut, read
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


def pieces(model: ModelProto, places: list[Site], batch: np.ndarray) -> np.ndarray:
    whole = read(model.SerializeToString())
    held = {whole.image: batch}
    for segment in cut(whole, [place.tensors for place in places]):
        part = ModelPart(segment.model, "segment", "cpu")
        assert (set(part.takes), part.gives) == (set(segment.needs), segment.gives)
        held = held | part.run(held)
    return held[whole.output]


@pytest.mark.parametrize("name", ["chain", "two"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_segments_compute_the_same_scores_at_every_site(
    request: pytest.FixtureRequest, name: str, data: st.DataObject
) -> None:
    model: ModelProto = request.getfixturevalue(name)
    found = find_sites(model, SIDE, slots=40)
    assert len(found) >= 4
    some = data.draw(st.lists(st.sampled_from(range(len(found))), unique=True, max_size=5).map(sorted))
    batch = np.random.default_rng(len(some)).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    [whole] = ModelPart(model.SerializeToString(), "whole", "cpu").run({"image": batch}).values()
    scores = pieces(model, [found[number] for number in some], batch)
    np.testing.assert_allclose(scores, whole, rtol=1e-4, atol=1e-5)


def test_sites_are_the_ends_of_blocks(chain: ModelProto) -> None:
    """Within a block the shortcut would have to be carried too."""
    found = find_sites(chain, SIDE, slots=40)
    assert all(len(place.tensors) == 1 for place in found)
    ends = {"stem.relu", *(f"stage{s}.block{b}.out" for s in (1, 2, 3) for b in (1, 2))}
    assert {place.tensors[0] for place in found} <= ends
    assert [place.macs for place in found] == sorted(place.macs for place in found)
    assert all(0 < place.share < 1 for place in found)


def test_a_site_of_two_networks_carries_the_picture_or_the_first_output(two: ModelProto) -> None:
    found = find_sites(two, SIDE, slots=40)
    carried = {place.tensors[1] if len(place.tensors) > 1 else "" for place in found}
    assert "image" in carried and "lite.embedding" in carried
    assert all("image" not in place.features for place in found)
    second = next(place for place in found if place.tensors[-1] == "lite.embedding" and len(place.tensors) == 2)
    assert second.features == second.tensors, "a cache there sees both"


def test_a_model_without_layers_has_no_site(tmp_path: Path) -> None:
    path = tmp_path / "full" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    classifier(path, np.random.default_rng(0))
    assert find_sites(onnx.load(str(path)), 32) == []


def test_an_invalid_site_is_refused(chain: ModelProto) -> None:
    model = read(chain.SerializeToString())
    with pytest.raises(SegmentError, match="cannot be computed"):
        cut(model, [["stage1.block1.conv1.relu"]])
    with pytest.raises(SegmentError, match="nothing is computed"):
        cut(model, [["stem.relu"], ["stem.relu"]])


def test_segments_are_models_that_any_tool_reads(chain: ModelProto) -> None:
    for segment in cut(read(chain.SerializeToString()), [["stage1.block1.out"], ["stage2.block1.out"]]):
        model = onnx.load_from_string(segment.model)
        assert [given.name for given in model.graph.input] == list(segment.needs)
        assert [output.name for output in model.graph.output] == list(segment.gives)
        assert model.opset_import == chain.opset_import and model.ir_version == chain.ir_version


@given(st.binary(max_size=300))
def test_a_file_without_a_model_is_refused(data: bytes) -> None:
    with pytest.raises(SegmentError):
        read(data)


@given(st.integers(0, 2000), st.integers(0, 255))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_model_is_refused_or_read_and_never_crashes(chain: ModelProto, place: int, byte: int) -> None:
    data = bytearray(chain.SerializeToString())
    data[place % len(data)] = byte
    for some in (bytes(data), bytes(data[: place % len(data)])):
        with contextlib.suppress(SegmentError):
            read(some)


def test_external_weights_and_subgraphs_are_refused() -> None:
    body = helper.make_graph([helper.make_node("Identity", ["image"], ["x"])], "body", [], [])
    inner = helper.make_node("If", ["image"], ["scores"], then_branch=body, else_branch=body)
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    result = helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)
    with pytest.raises(SegmentError, match="has subgraphs"):
        read(helper.make_model(helper.make_graph([inner], "g", [value], [result])).SerializeToString())
    weight = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "elsewhere.bin")
    add = helper.make_node("Add", ["image", "w"], ["scores"])
    with pytest.raises(SegmentError, match="other files"):
        read(helper.make_model(helper.make_graph([add], "g", [value], [result], [weight])).SerializeToString())

"""INT8 models as float models of the same graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cachenet.models.data import cifar10, sample
from cachenet.models.export import quantise
from cachenet.models.export.dequantise import dequantised
from cachenet.models.train.onnx_network import OnnxNetwork
from cachenet.models.train.training import normalise
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import Session
from tests.hampered import ZOO

IMAGES = normalise(sample.load().images[:200], cifar10.INPUT).contiguous().numpy()


def logits(model: ModelProto, directory: Path) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(directory / "model.onnx"))
    return Session(directory / "model.onnx", "cpu").run(IMAGES)


@pytest.fixture(scope="module")
def int8() -> ModelProto:
    return onnx.load(str(Bundle(ZOO).path("base")))


def test_a_float_copy_nearly_has_the_outputs_of_the_int8_model(int8: ModelProto, tmp_path: Path) -> None:
    """Activations are no longer rounded, so the outputs differ slightly."""
    before, after = logits(int8, tmp_path), logits(dequantised(int8), tmp_path)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.97
    assert np.abs(before - after).mean() < 0.1


def test_a_float_copy_can_be_trained_and_has_no_quantised_tensor(int8: ModelProto) -> None:
    model = dequantised(int8)
    assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert {one.data_type for one in model.graph.initializer} == {TensorProto.FLOAT}
    network = OnnxNetwork(model)
    network.heads(torch.from_numpy(IMAGES[:2]))[0].sum().backward()
    trained = list(network.parameters())
    assert len(trained) == 2 * sum(node.op_type in ("Conv", "Gemm") for node in model.graph.node)
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in trained)


def test_a_float_copy_can_be_quantised_and_copied_again_and_again(int8: ModelProto, tmp_path: Path) -> None:
    """A submodel is trained from the submodel before it."""
    model, before = int8, logits(int8, tmp_path)
    for _ in range(2):
        model = quantise.int8(dequantised(model), IMAGES[:100])
    assert (logits(model, tmp_path).argmax(1) == before.argmax(1)).mean() > 0.95


def test_a_float_model_is_copied_unchanged() -> None:
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "weight")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 4, 4]) for name in ("image", "scores")]
    nodes = [helper.make_node("Conv", ["image", "weight"], ["scores"])]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [weight]))
    assert dequantised(model) == model


@pytest.mark.parametrize(("zero", "least"), [(0, 0.0), (128, -128 * 0.5)])
def test_an_activation_whose_range_begins_at_zero_passes_a_relu(zero: int, least: float, tmp_path: Path) -> None:
    stored = [
        numpy_helper.from_array(np.array(0.5, np.float32), "scale"),
        numpy_helper.from_array(np.array(zero, np.uint8), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["small"]),
        helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["scores"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("image", "scores")]
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], stored), opset_imports=opset)
    model.ir_version = 8
    onnx.save(dequantised(model), str(tmp_path / "model.onnx"))
    image = np.array([[-60.0, 3.0]], np.float32)
    assert Session(tmp_path / "model.onnx", "cpu").run(image).tolist() == [[max(-60.0, least), 3.0]]

"""An ONNX graph as a PyTorch module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cachenet.models.detect.export import export
from cachenet.models.detect.network import HeatmapNet, HeatmapShape
from cachenet.models.train.onnx_network import NotTrainable, OnnxNetwork

DETECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "detectors"


def run(model: onnx.ModelProto, x: torch.Tensor) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [session.run(None, {session.get_inputs()[0].name: one[None].numpy()}) for one in x]
    return [np.stack(values) for values in zip(*rows, strict=True)]


def small(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray], out: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 10])],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


KERNEL = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
CONV = helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])


@pytest.mark.parametrize("name", ["fastestdet_352", "nanodet_plus_m_416", "person_nano_192", "yolox_nano_416"])
@pytest.mark.skipif(not DETECTORS.is_dir(), reason="the detectors are not part of the project")
def test_a_published_detector_gives_the_outputs_of_onnx_runtime(name: str) -> None:
    model = onnx.load(str(DETECTORS / f"{name}.onnx"))
    _, channels, height, width = (one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim)
    x = torch.rand(2, channels, height, width)
    with torch.no_grad():
        found = OnnxNetwork(model).heads(x)
    for own, theirs in zip(found, run(model, x), strict=True):
        assert np.allclose(own.numpy(), theirs, atol=5e-3)


def test_a_batch_gives_the_outputs_of_its_pictures_one_by_one() -> None:
    shape = numpy_helper.from_array(np.array([4, -1], np.int64))
    model = small(
        CONV,
        helper.make_node("Reshape", ["y", "shape"], ["z"]),  # no axis of pictures is left
        weights={"kernel": KERNEL, "shape": numpy_helper.to_array(shape)},
        out="z",
    )
    x = torch.rand(5, 3, 8, 10)
    assert np.allclose(OnnxNetwork(model).heads(x)[0].detach().numpy(), run(model, x)[0], atol=1e-5)


def test_trained_weights_are_written_into_the_same_graph_and_nothing_else() -> None:
    model = small(CONV, weights={"kernel": KERNEL}, out="y")
    network = OnnxNetwork(model)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    trained = network.model()
    assert np.allclose(numpy_helper.to_array(trained.graph.initializer[0]), 2 * KERNEL)
    assert np.allclose(numpy_helper.to_array(model.graph.initializer[0]), KERNEL)
    trained.graph.initializer[0].CopyFrom(model.graph.initializer[0])
    assert trained == model


def test_weights_in_half_precision_stay_in_half_precision(tmp_path: Path) -> None:
    network = HeatmapNet(HeatmapShape((8, 8, 16))).eval()
    export(network, (64, 32), tmp_path / "model.onnx", {})
    model = onnx.load(str(tmp_path / "model.onnx"))
    restored = OnnxNetwork(model, "boxes", "logits")
    x = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        whole = torch.cat([one[:, 0] for one in restored.heads(x)], 1)
        assert torch.allclose(whole, network.heads(x)[0], atol=2e-2)
    assert sum(one.numel() for one in restored.parameters()) > 1000
    assert restored.model() == model


def test_an_operator_without_a_gradient_is_named() -> None:
    model = small(helper.make_node("Round", ["x"], ["y"]), weights={}, out="y")
    with pytest.raises(NotTrainable, match="Round"):
        OnnxNetwork(model)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[3, 3]),
        helper.make_node("Softmax", ["x"], ["y"], axis=1),
        helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3]),
        helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.2),
        helper.make_node("HardSwish", ["x"], ["y"]),
        helper.make_node("HardSigmoid", ["x"], ["y"], alpha=0.3),
        helper.make_node("Squeeze", ["x", "axes"], ["y"]),
        helper.make_node("Gather", ["x", "rows"], ["y"], axis=1),
        helper.make_node("Slice", ["x", "starts", "ends", "axes2", "steps"], ["y"]),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear"),
        helper.make_node("Pad", ["x", "pads"], ["y"]),
    ],
    ids=lambda node: node.op_type,
)
def test_an_operator_gives_the_output_of_onnx_runtime(node: onnx.NodeProto) -> None:
    weights = {
        "axes": np.array([0]),
        "rows": np.array([2, 0]),
        "starts": np.array([1, -4]),
        "ends": np.array([1 << 40, 1 << 40]),
        "axes2": np.array([2, 3]),
        "steps": np.array([2, 1]),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": np.array([0, 0, 1, 2, 0, 0, 0, 1]),
    }
    model = small(node, weights={name: weights[name] for name in node.input if name in weights}, out="y")
    if node.op_type == "HardSwish":
        model.opset_import[0].version = 14
    x = torch.randn(3, 3, 8, 10)
    assert np.allclose(OnnxNetwork(model).heads(x)[0].numpy(), run(model, x)[0], atol=1e-5)

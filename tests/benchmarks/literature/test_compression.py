"""Pruning, sparsity and the agreement of detectors of the row ``compression``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from benchmarks.literature.compression import detectors, pruning, sparsity
from benchmarks.literature.compression.detectors import average_precision
from benchmarks.literature.timing import quicker_half
from cachenet.models.data.cifar10 import cache_directory
from cachenet.models.export.quantise import folded
from cachenet.models.train.networks import Block

FULL = "models/zoo/cifar10/full/1/model.onnx"
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def full() -> onnx.ModelProto:
    return folded(onnx.load(FULL))


def embedding(model: onnx.ModelProto, x: torch.Tensor) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": x.numpy()})[0])


def test_the_residual_part_and_its_place_in_the_full_model_fit(full: onnx.ModelProto) -> None:
    network = pruning.residual_part(full)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = network(x).detach()
    pruning.restore_statistics(network, IMAGES)
    assert network(x).detach().numpy() == pytest.approx(before.numpy(), abs=1e-4)
    assert embedding(pruning.with_part(full, network), x) == pytest.approx(embedding(full, x), abs=1e-3)


def test_a_reconstructed_network_of_full_width_is_the_teacher() -> None:
    torch.manual_seed(0)
    teacher = pruning.narrowed([8, 8, 8, 8, 16, 16, 16, 16])
    small = pruning.narrowed(pruning.widths(teacher))
    small.load_state_dict(teacher.state_dict())
    for stage in small.stages:
        for block in stage.children():
            assert isinstance(block, Block)
            torch.nn.init.zeros_(block.conv2.weight)
    images = np.random.default_rng(1).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)
    pruning.reconstruct(small, teacher, images)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        difference = (small(x) - teacher(x)).abs().max() / teacher(x).abs().max()
    assert difference < 0.2


def test_a_pattern_leaves_four_weights_and_the_centre(full: onnx.ModelProto) -> None:
    stored = {one.name: one for one in sparsity.with_patterns(full).graph.initializer}
    weight = onnx.numpy_helper.to_array(stored["stage2.block2.conv1.weight"])
    assert ((weight != 0).sum((2, 3)) <= 4).all()
    assert (weight[:, :, 1, 1] != 0).mean() > 0.9


def test_a_pattern_holds_the_largest_weights() -> None:
    kernels = np.full((10, 9), 0.1, np.float32)
    kernels[:, [1, 3, 5]] = 5
    [first, *_] = sparsity.common_patterns(kernels)
    assert np.flatnonzero(first).tolist() == [1, 3, 4, 5]


def test_separable_interpolation_is_the_same_interpolation() -> None:
    x = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    once, apart = (embedding(sparsity.interpolation(3, 5, separable), x) for separable in (False, True))
    assert apart == pytest.approx(once, abs=1e-5)


@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=20, unique=True))
def test_average_precision_is_one_when_every_detection_is_right(scores: list[float]) -> None:
    assert average_precision(np.array([[one, 1.0] for one in scores]), len(scores)) == pytest.approx(1)


def test_average_precision_falls_with_a_wrong_detection_of_high_score() -> None:
    right = [[0.9, 1.0], [0.8, 1.0]]
    assert average_precision(np.array([*right, [0.1, 0.0]]), 2) == 1
    assert average_precision(np.array([*right, [0.99, 0.0]]), 2) == pytest.approx(2 / 3)
    assert average_precision(np.array(right), 4) == 0.5


@pytest.mark.parametrize(("largest", "expected"), [(100.0, ["first", "second"]), (1.0, [])])
def test_convolutions_of_a_map_with_few_large_values_stay_in_floating_point(
    largest: float, expected: list[str]
) -> None:
    weights = np.full((8, 3, 1, 1), 0.1, np.float32)
    weights[0] = largest
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["map"], "first"),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("Conv", ["positive", "others"], ["narrow"], "second"),
        helper.make_node("Conv", ["narrow", "others"], ["scores"], "third"),
    ]
    others = np.concatenate([np.zeros((8, 1, 1, 1)), np.full((8, 7, 1, 1), 0.1)], 1).astype(np.float32)
    image, scores = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 4, 4])
        for name, channels in (("image", 3), ("scores", 8))
    )
    stored = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(others, "others")]
    graph = helper.make_graph(nodes, "graph", [image], [scores], stored)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    images = np.random.default_rng(0).random((4, 3, 4, 4), np.float32)
    assert detectors.wide(model, images) == expected


def test_slow_runs_count_for_nothing() -> None:
    assert quicker_half([3.0, 1.0, 99.0, 2.0]) == 1.5
    assert quicker_half([[1.0, 2.0], [3.0, 2.0], [9.0, 99.0], [99.0, 9.0]]) == [2.0, 2.0]


@pytest.mark.slow
@pytest.mark.skipif(not (cache_directory() / "cifar-10").is_dir(), reason="needs CIFAR-10")
def test_the_row_runs(smoke: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    form = "convolutions of narrow range"
    monkeypatch.setattr(detectors, "VARIANTS", {form: detectors.VARIANTS[form]})
    found = smoke("compression")
    assert {"full", "pruned", "pruned, INT8"} <= set(found["full_model"])
    assert set(found["detectors"]["person_nano_192"]) == {form}
    assert "pattern sparsity, residual network" in found["as_they_are"]

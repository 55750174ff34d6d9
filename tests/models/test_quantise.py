from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from cachenet.models.data import sample
from cachenet.models.data.cifar10 import INPUT
from cachenet.models.export import cost, quantise
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import crop, preprocessor
from tests.hampered import write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's INT8 base model in float32."""
    path = tmp_path_factory.mktemp("base") / "model.onnx"
    write_base(path, {"model": "base"})
    return path


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    prepare = preprocessor(INPUT)
    pictures = sample.load().take(np.arange(400)).images[:, :, :, ::-1]
    return np.concatenate([prepare(crop(np.ascontiguousarray(picture), INPUT)) for picture in pictures])


@pytest.fixture(scope="module")
def quantised(base: Path, images: np.ndarray) -> onnx.ModelProto:
    return quantise.int8(onnx.load(str(base)), images[:100])


def test_int8_nearly_agrees_and_takes_little_more_than_a_quarter_of_the_bytes(
    base: Path, quantised: onnx.ModelProto, images: np.ndarray, tmp_path: Path
) -> None:
    """The result passes ONNX's checker."""
    onnx.checker.check_model(quantised, full_check=True)
    path = tmp_path / "int8.onnx"
    onnx.save(quantised, str(path))
    assert path.stat().st_size < 0.35 * base.stat().st_size
    before, after = Session(base, "cpu").run(images[100:]), Session(path, "cpu").run(images[100:])
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.97
    compared = quantise.compare(base, path, images[:1])
    assert 0.2 < compared.bytes < 0.35
    assert 0 < compared.time < 10


def test_metadata_and_tensor_names_are_unchanged(base: Path, quantised: onnx.ModelProto) -> None:
    assert quantised.metadata_props == onnx.load(str(base)).metadata_props
    assert quantised.graph.input[0].name == "image" and quantised.graph.output[0].name == "scores"
    assert cost.macs(onnx.load(str(base)), 32) == pytest.approx(42e6, rel=0.05)


def test_the_same_images_give_the_same_bytes(base: Path, quantised: onnx.ModelProto, images: np.ndarray) -> None:
    again = quantise.int8(onnx.load(str(base)), images[:100])
    assert again.SerializeToString(deterministic=True) == quantised.SerializeToString(deterministic=True)


def test_a_graph_of_an_operator_set_without_scales_of_channels_is_quantised(tmp_path: Path) -> None:
    kernel = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "k")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 6, 6])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Conv", ["x", "k"], ["y"])], "old", [x], [y], [kernel])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6)
    images = np.random.default_rng(1).random((8, 3, 8, 8), np.float32)
    paths = tmp_path / "floats.onnx", tmp_path / "int8.onnx"
    for one, path in zip((model, quantise.int8(model, images)), paths, strict=True):
        onnx.save(one, str(path))
    before, after = (Session(path, "cpu").run_all(images[:1])[0] for path in paths)
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()

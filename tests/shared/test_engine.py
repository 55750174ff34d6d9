"""ONNX Runtime as it is set up here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from cachenet.models.certify import traces
from cachenet.models.data import sample
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import EngineError, Session
from cachenet.shared.inference.image import crop, preprocessor
from tests.bundles import tiny_bundle
from tests.hampered import ZOO


@pytest.mark.parametrize("threads", [1, 2])
def test_an_idle_session_uses_no_processor_time(tmp_path: Path, threads: int) -> None:
    """Its threads may spin while it runs, but not after."""
    session = Session(tiny_bundle(tmp_path) / "full" / "1" / "model.onnx", "cpu", threads)
    session.run(np.zeros((1, 3, 32, 32), np.float32))
    time.sleep(0.05)
    used = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - used < 0.1


def test_a_model_is_loaded_from_any_path_that_the_system_allows(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9:\n"))
    session = Session(tiny_bundle(directory) / "full" / "1" / "model.onnx", "cpu")
    assert session.run(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)


@pytest.mark.parametrize(
    "first", ["cachenet.shared.inference.engine", "cachenet.models.train.label", "cachenet.models.export.quantise"]
)
def test_onnx_runtime_sends_no_telemetry(tmp_path: Path, first: str) -> None:
    """Where it reports, it keeps what it is about to send, and a number of the device, in the home directory. Where
    tests run it does not by itself, so what tells it that goes."""
    model = tiny_bundle(tmp_path / "bundle") / "full/1/model.onnx"
    engine = "cachenet.shared.inference.engine"
    code = f"import {first}; from {engine} import Session; from pathlib import Path; Session(Path({str(model)!r}))"
    hints = {"CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "GITHUB_ACTIONS"}
    known = {name: value for name, value in os.environ.items() if name not in hints}
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", code], env=known | {"HOME": str(home)}, check=True, timeout=120)
    assert list(home.rglob("*onnxruntime*")) == []


@pytest.mark.parametrize("name", ["base", "general-1in50.1"])
def test_int8_scores_are_those_of_operators_that_compute_in_floats(name: str) -> None:
    """On any processor: on many of x86 the quickest sums of INT8 overflow, and one answer of twelve is another."""
    bundle = Bundle(ZOO)
    spec, path = bundle.manifest.models[name].input, bundle.path(name)
    pictures = traces.as_pictures(sample.load().images[:200])
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    batch = np.concatenate([preprocessor(spec)(crop(picture, spec)) for picture in pictures])
    floats = ort.InferenceSession(str(path), plain, providers=["CPUExecutionProvider"]).run(None, {"image": batch})[0]
    integers = Session(path, "cpu").run(batch)
    assert np.sqrt(np.mean((integers - floats) ** 2)) < 0.02 * floats.std()
    assert (integers.argmax(1) == floats.argmax(1)).mean() > 0.99


def test_a_file_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"model\.onnx: not a model"):
        Session(tmp_path / "model.onnx", "cpu")


def test_all_outputs_of_a_detector_are_returned_in_order(tmp_path: Path) -> None:
    nodes = [helper.make_node("Flatten", ["image"], ["rows"]), helper.make_node("Neg", ["image"], ["negative"])]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 2, 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("negative", "rows")],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    session, image = Session(path, "cpu"), np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    negative, rows = session.run_all(image)
    np.testing.assert_array_equal(negative, -image)
    np.testing.assert_array_equal(rows, image.reshape(1, 12))
    with pytest.raises(EngineError, match=r"two\.onnx: a classifier has one output, and this model has 2"):
        session.run(image)


def test_slowdown_sleeps_after_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.25, 20.0, 20.25])
    slept: list[float] = []
    monkeypatch.setattr("cachenet.shared.inference.engine.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("cachenet.shared.inference.engine.time.sleep", slept.append)
    path = tiny_bundle(tmp_path) / "full" / "1" / "model.onnx"
    image = np.zeros((1, 3, 32, 32), np.float32)
    slow = Session(path, slowdown=5.0).run(image)
    assert slept == [1.0]
    np.testing.assert_array_equal(Session(path).run(image), slow)
    assert slept == [1.0]

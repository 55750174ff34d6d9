"""Users' classifiers: what is read from them, and what is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cachenet.models.export.classifier import PRESETS, Classifier, ClassifierError, load_classifier

ZOO = Path(__file__).parents[2] / "models" / "zoo" / "cifar10"
CLASSES, CHANNELS = 4, 8


def write(
    path: Path,
    *,
    shape: tuple[Any, ...] = ("n", 3, 16, 16),
    kind: int = TensorProto.FLOAT,
    head: str = "Gemm",
    softmax: bool = False,
    classes: int = CLASSES,
    inputs: int = 1,
    outputs: int = 1,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A classifier of one convolution, a mean and a head."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(0, 1, (CHANNELS, 3, 3, 3)),
        "weight": rng.normal(0, 1, (CHANNELS, classes)),
        "bias": rng.normal(0, 1, (classes,)),
    }
    first = "cast" if kind != TensorProto.FLOAT else "image"
    nodes = [helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT)] if first == "cast" else []
    nodes += [
        helper.make_node("Conv", [first, "kernel"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
    ]
    if head == "Gemm":
        nodes.append(helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]))
    elif head == "MatMul":
        nodes += [
            helper.make_node("MatMul", ["flat", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits"]),
        ]
    else:  # fully convolutional
        weights["last"] = rng.normal(0, 1, (classes, CHANNELS, 1, 1))
        nodes += [
            helper.make_node("Conv", ["pooled", "last"], ["maps"]),
            helper.make_node("Flatten", ["maps"], ["logits"]),
        ]
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", ["logits"], ["out"]))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", kind, shape)]
        + [helper.make_tensor_value_info(f"more{n}", TensorProto.FLOAT, [1]) for n in range(1, inputs)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", classes])]
        + [helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", CHANNELS]) for _ in range(1, outputs)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path


def run(classifier: Classifier, pictures: Any) -> list[Any]:
    session = ort.InferenceSession(classifier.graph.SerializeToString())
    return list(session.run([classifier.scores, classifier.embedding], {"image": pictures}))


@pytest.mark.parametrize("head", ["Gemm", "MatMul"])
@pytest.mark.parametrize("softmax", [False, True])
def test_scores_match_the_file_and_the_embedding_is_the_input_of_its_head(
    tmp_path: Path, head: str, softmax: bool
) -> None:
    path = write(tmp_path / "m.onnx", head=head, softmax=softmax)
    classifier = load_classifier(path, PRESETS["unit"])
    pictures = np.random.default_rng(1).random((5, 3, 16, 16), np.float32)
    scores, embedding = run(classifier, pictures)
    expected = ort.InferenceSession(str(path)).run(None, {"image": pictures})[0]
    if softmax:
        odds = np.exp(scores - scores.max(1, keepdims=True))
        scores = odds / odds.sum(1, keepdims=True)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert classifier.embedding == "flat"
    assert embedding.shape == (5, CHANNELS)


def test_the_shipped_model_is_read_from_its_metadata_alone() -> None:
    classifier = load_classifier(ZOO / "full" / "1" / "model.onnx")
    assert classifier.input.side == 32
    assert classifier.labels[0] == "airplane"
    assert classifier.embedding == "embedding"


def test_a_fixed_input_size_takes_precedence_over_the_preset(tmp_path: Path) -> None:
    assert load_classifier(write(tmp_path / "a.onnx"), PRESETS["imagenet"]).input.side == 16
    free = write(tmp_path / "b.onnx", shape=("n", 3, "h", "w"))
    assert load_classifier(free, PRESETS["imagenet"]).input == PRESETS["imagenet"]


def test_a_model_of_less_than_half_the_presets_size_gets_the_whole_image(tmp_path: Path) -> None:
    small = load_classifier(write(tmp_path / "small.onnx", shape=("n", 3, 96, 96)), PRESETS["imagenet"])
    large = load_classifier(write(tmp_path / "large.onnx", shape=("n", 3, 192, 192)), PRESETS["imagenet"])
    assert small.input.crop == 1.0
    assert large.input.crop == PRESETS["imagenet"].crop


def test_unknown_labels_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    assert load_classifier(path, PRESETS["unit"]).labels == ("0", "1", "2", "3")
    assert load_classifier(path, PRESETS["unit"], labels=("a", "b", "c", "d")).labels == ("a", "b", "c", "d")


def test_the_embedding_is_the_input_of_the_last_layer_unless_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", head="Conv")
    assert load_classifier(path, PRESETS["unit"]).embedding == "pooled"
    assert load_classifier(path, PRESETS["unit"], embedding="flat").embedding == "flat"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"inputs": 2}, "takes 2 inputs"),
        ({"outputs": 2}, r"2 outputs \(out, flat\)"),
        ({"classes": 1}, "one class"),
        ({"shape": ("n", 4, 16, 16)}, r"takes \? x 4 x 16 x 16, which is no picture"),
        ({"shape": ("n", 10)}, r"takes \? x 10, which is no batch of pictures"),
        ({"shape": (8, 3, 16, 16)}, "batches of 8 only"),
        ({"shape": ("n", 16, 16, 3)}, "the model does not run"),
        ({"kind": TensorProto.STRING}, "takes string"),
    ],
)
def test_unusable_models_are_refused_with_the_reason(tmp_path: Path, made: dict[str, Any], message: str) -> None:
    with pytest.raises(ClassifierError, match=message) as refused:
        load_classifier(write(tmp_path / "m.onnx", **made), PRESETS["unit"])
    assert "\n" not in str(refused.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name, message in (
        ("picture.onnx", "no ONNX file"),
        ("empty.onnx", "no ONNX file"),
        ("none.onnx", "is not there"),
    ):
        with pytest.raises(ClassifierError, match=message):
            load_classifier(tmp_path / name, PRESETS["unit"])
    with pytest.raises(ClassifierError, match="directory"):
        load_classifier(tmp_path, PRESETS["unit"])


def test_missing_or_wrong_options_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    with pytest.raises(ClassifierError, match="--preprocessing"):
        load_classifier(path)
    with pytest.raises(ClassifierError, match="4 scores for 2 labels"):
        load_classifier(path, PRESETS["unit"], labels=("a", "b"))
    with pytest.raises(ClassifierError, match="no tensor 'nowhere'"):
        load_classifier(path, PRESETS["unit"], embedding="nowhere")
    damaged = write(tmp_path / "d.onnx", metadata={"cachenet.input": '{"side": "wide"}'})
    with pytest.raises(ClassifierError, match=r"cachenet\.input is damaged"):
        load_classifier(damaged)

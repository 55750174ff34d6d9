"""Any ONNX classifier is accepted and gives the outputs of its file; other files are refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from cachenet.models.export import cost
from cachenet.models.export.classifier import (
    PRESETS,
    Classifier,
    ClassifierError,
    load_classifier,
    parse_preprocessing,
    probe_images,
    serving_graph,
)
from cachenet.models.export.head import probabilities
from cachenet.models.report.scores import softmax
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, crop, preprocessor
from tests.models.onnx_kinds import CLASSES, FEATURES, HEIGHT, WIDTH, Made, taken, wide

UNIT = PRESETS["unit"]
SMALL = Input(WIDTH, UNIT.mean, UNIT.std, height=HEIGHT)


def outputs_of(classifier: Classifier) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Return, for the probe images, probabilities of the bundle's model, those of the user's file, and embeddings."""
    spec = classifier.input
    prepare = preprocessor(spec)
    batch = np.concatenate([prepare(crop(picture, spec)) for picture in probe_images(spec).values()])
    session = ort.InferenceSession(classifier.graph.SerializeToString())
    name = session.get_inputs()[0].name
    groups = np.split(batch, len(batch)) if classifier.batch == 1 else [batch]
    made = [session.run([classifier.scores, classifier.embedding], {name: group}) for group in groups]
    scores, embedding = (np.concatenate([one[axis] for one in made]) for axis in (0, 1))
    assert scores.dtype == np.float32
    assert scores.shape == (len(batch), len(classifier.labels))
    reference = ort.InferenceSession(str(classifier.path))
    outputs = [
        reference.run(None, {reference.get_inputs()[0].name: classifier.native.to_native(one[None])})[0]
        for one in batch
    ]
    expected_outputs = probabilities(np.concatenate([one.reshape(1, -1) for one in outputs]), classifier.head)
    return softmax(scores), expected_outputs, embedding


def test_layout_and_type_do_not_change_the_outputs(tmp_path: Path) -> None:
    """One network, exported in five ways."""
    plain = load_classifier(wide(tmp_path / "plain.onnx"), SMALL)
    expected, _, _ = outputs_of(plain)
    assert np.ptp(expected, axis=0).max() > 0.1, "the outputs differ between images"
    for nhwc, kind, room in (
        (True, TensorProto.FLOAT, 1e-6),
        (False, TensorProto.FLOAT16, 2e-2),
        (True, TensorProto.UINT8, 1e-5),
        (False, TensorProto.UINT8, 1e-5),
        (True, TensorProto.INT8, 1e-5),
    ):
        classifier = load_classifier(wide(tmp_path / "m.onnx", nhwc=nhwc, kind=kind), SMALL)
        assert classifier.input.size == (WIDTH, HEIGHT)
        own, expected_outputs, embedding = outputs_of(classifier)
        np.testing.assert_allclose(own, expected, atol=room)
        np.testing.assert_allclose(own, expected_outputs, atol=max(room, 2e-3) if kind == TensorProto.FLOAT16 else 1e-5)
        assert embedding.shape[1] == FEATURES


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
def test_the_bundles_model_gives_the_outputs_of_the_file(tmp_path: Path, nhwc: bool, kind: int) -> None:
    path = wide(tmp_path / "m.onnx", nhwc=nhwc, kind=kind)
    classifier = load_classifier(path, SMALL)
    onnx.save(serving_graph(classifier, {"model": "full"}), str(tmp_path / "served.onnx"))
    tensor = preprocessor(classifier.input)(crop(probe_images(classifier.input)["noisy"], classifier.input))
    reference = ort.InferenceSession(str(path))
    [expected] = reference.run(None, {"image": taken(tensor, nhwc, kind)})
    own = softmax(Session(tmp_path / "served.onnx", "cpu").run(tensor))
    np.testing.assert_allclose(own, expected, atol=2e-3)


def test_models_of_one_channel_get_grey_images(tmp_path: Path) -> None:
    classifier = load_classifier(wide(tmp_path / "m.onnx", channels=1), PRESETS["imagenet"])
    assert classifier.input.colour == "grey"
    own, expected_outputs, _ = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-5)
    with pytest.raises(ClassifierError, match="is for grey, and the model takes three channels"):
        load_classifier(wide(tmp_path / "m.onnx"), parse_preprocessing("unit,grey"))


@pytest.mark.parametrize(
    "shape",
    [
        None,
        (None, None, None, None),
        (-1, -1, -1, -1),
        (-1, 3, -1, -1),
        ("n", "c", "h", "w"),
        (1, 3, HEIGHT, WIDTH),
        ("n", 3, HEIGHT, None),
        ("n", None, HEIGHT, WIDTH),
    ],
)
@pytest.mark.parametrize("nhwc", [False, True])
def test_sizes_that_the_graph_leaves_open_are_found_by_running_it(tmp_path: Path, shape: Any, nhwc: bool) -> None:
    laid = [shape[axis] for axis in (0, 2, 3, 1)] if nhwc and shape is not None else shape
    classifier = load_classifier(wide(tmp_path / "m.onnx", nhwc=nhwc, shape=laid, gives=None), SMALL)
    assert classifier.native.layout == ("nhwc" if nhwc else "nchw")
    assert classifier.input.size == (WIDTH, HEIGHT)
    assert classifier.batch == (1 if shape is not None and shape[0] == 1 else None)
    own, expected_outputs, _ = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-5)
    assert cost.macs(classifier.graph, classifier.input.size) > FEATURES * 27 * (HEIGHT - 2) * (WIDTH - 2)


def test_integer_inputs_need_no_preprocessing_and_are_never_normalised(tmp_path: Path) -> None:
    path = wide(tmp_path / "m.onnx", kind=TensorProto.UINT8, nhwc=True)
    by_itself = load_classifier(path).input
    assert (by_itself.mean, by_itself.std, by_itself.size) == ((0, 0, 0), (1, 1, 1), (WIDTH, HEIGHT))
    stretched = load_classifier(path, parse_preprocessing("imagenet,stretch")).input
    assert (stretched.mean, stretched.std, stretched.fit) == ((0, 0, 0), (1, 1, 1), "stretch")


ONE = np.float32(1)
# Operators after the logits.
HEADS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "logits": [],
    "softmax": [("Softmax", {"axis": 1})],
    "softmax, cast": [("Softmax", {"axis": 1}), ("Cast", {"to": TensorProto.FLOAT16}), ("Cast", {"to": 1})],
    "softmax, reshape": [("Softmax", {"axis": 1}), ("Unsqueeze", {"constant": np.array([2, 3])})],
    "softmax, percent": [("Softmax", {"axis": 1}), ("Mul", {"constant": np.float32(100)})],
    "softmax, affine": [("Softmax", {"axis": 1}), ("Mul", {"constant": np.float32(2)}), ("Sub", {"constant": ONE})],
    "temperature, softmax": [("Mul", {"constant": np.float32(0.5)}), ("Softmax", {"axis": 1}), ("Identity", {})],
    "log-softmax": [("LogSoftmax", {"axis": 1}), ("Identity", {})],
    "log of softmax": [("Softmax", {"axis": 1}), ("Log", {})],
    "exp of log-softmax": [("LogSoftmax", {"axis": 1}), ("Exp", {})],
    "sigmoid": [("Sigmoid", {}), ("Identity", {})],
}  # fmt: skip


def headed(path: Path, head: str) -> Path:
    made = Made()
    name = made.trunk()
    for number, (operator, attributes) in enumerate(HEADS[head]):
        inputs = [name]
        if "constant" in attributes:
            inputs.append(made.weight(f"constant{number}", np.asarray(attributes["constant"])))
        name = made.node(operator, inputs, f"after{number}", **{k: v for k, v in attributes.items() if k != "constant"})
    return made.save(path, name, gives=None)


@pytest.mark.parametrize("head", list(HEADS))
def test_confidence_is_that_of_the_logits_whatever_follows_them(tmp_path: Path, head: str) -> None:
    classifier = load_classifier(headed(tmp_path / "m.onnx", head), SMALL)
    own, _, _ = outputs_of(classifier)
    spec = classifier.input
    batch = np.concatenate([preprocessor(spec)(picture) for picture in probe_images(spec).values()])
    exposed = onnx.load(str(tmp_path / "m.onnx"))
    exposed.graph.output.append(onnx.ValueInfoProto(name="logits"))
    [logits] = ort.InferenceSession(exposed.SerializeToString()).run(["logits"], {"image": batch})
    np.testing.assert_allclose(own, softmax(logits * (0.5 if head.startswith("temperature") else 1)), atol=1e-4)


def test_probabilities_without_logits_in_the_graph_are_recognised_by_their_values(tmp_path: Path) -> None:
    """Averaged probabilities of two networks; and a sigmoid of basic operators."""
    made = Made()
    logits = made.trunk()
    one = made.node("Softmax", [logits], "one", axis=1)
    made.node("Mul", [logits, made.weight("half", np.float32(0.5).reshape(()))], "cooler")
    other = made.node("Softmax", ["cooler"], "other", axis=1)
    made.node("Add", [one, other], "both")
    made.node("Mul", ["both", "half"], "out")
    classifier = load_classifier(made.save(tmp_path / "m.onnx", "out"), SMALL)
    assert (classifier.head.meaning, classifier.head.logits) == ("softmax", None)
    own, expected_outputs, _ = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-4)

    made = Made()
    made.node("Neg", [made.trunk()], "negative")
    made.node("Exp", ["negative"], "power")
    made.node("Add", ["power", made.weight("one", np.float32(1).reshape(()))], "more")
    made.node("Reciprocal", ["more"], "out")
    classifier = load_classifier(made.save(tmp_path / "n.onnx", "out"), SMALL)
    assert classifier.head.meaning == "sigmoid"
    own, expected_outputs, _ = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-4)


def test_a_single_sigmoid_is_a_classifier_of_two_labels(tmp_path: Path) -> None:
    made = Made()
    made.node("Slice", [made.trunk(), *(made.weight(n, np.array([v])) for n, v in (("a", 0), ("b", 1), ("c", 1)))], "z")
    made.node("Sigmoid", ["z"], "out")
    path = made.save(tmp_path / "m.onnx", "out", gives=("n", 1))
    classifier = load_classifier(path, SMALL, labels=("cat", "dog"))
    own, expected_outputs, _ = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-5)
    with pytest.raises(ClassifierError, match="2 scores for 1 labels"):
        load_classifier(path, SMALL, labels=("cat",))


def _sigmoid_and(path: Path, after: str, number: float) -> Path:
    """A model of a single sigmoid, followed by an operator with a constant."""
    made = Made()
    made.node("Slice", [made.trunk(), *(made.weight(n, np.array([v])) for n, v in (("a", 0), ("b", 1), ("c", 1)))], "z")
    made.node("Sigmoid", ["z"], "share")
    inputs = [made.weight("number", np.float32(number)), "share"]
    made.node(after, inputs, "out")
    return made.save(path, "out", gives=("n", 1))


@pytest.mark.parametrize(("after", "number", "of"), [("Sub", 1.0, 1.0), ("Mul", 100.0, 100.0)])
def test_an_operator_after_a_single_sigmoid_is_taken_into_account(
    after: str, number: float, of: float, tmp_path: Path
) -> None:
    """Probability of the other label, and per cent: the output decides, not the tensor before the sigmoid."""
    path = _sigmoid_and(tmp_path / "m.onnx", after, number)
    classifier = load_classifier(path, SMALL, labels=("cat", "dog"))
    reference = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = np.concatenate([preprocessor(SMALL)(picture) for picture in probe_images(SMALL).values()])
    second = reference.run(None, {reference.get_inputs()[0].name: batch})[0][:, 0] / of
    graph = ort.InferenceSession(classifier.graph.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = graph.run([classifier.scores], {graph.get_inputs()[0].name: batch})[0]
    np.testing.assert_allclose(softmax(scores)[:, 1], second, atol=1e-3)
    own, expected_outputs, _ = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-3)


def test_an_input_size_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    made = Made()
    path = made.save(tmp_path / "m.onnx", made.trunk(), shape=("n", 3, 5000, 5000))
    with pytest.raises(ClassifierError, match="pictures of 5000x5000"):
        load_classifier(path, SMALL)


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = [{"image": preprocessor(SMALL)(picture)} for picture in probe_images(SMALL).values()]

    def get_next(self) -> Any:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("softmax_", [False, True])
def test_int8_models_of_both_formats_are_accepted(tmp_path: Path, form: QuantFormat, softmax_: bool) -> None:
    floats = headed(tmp_path / "floats.onnx", "softmax" if softmax_ else "logits")
    out = tmp_path / "m.onnx"
    quantize_static(str(floats), str(out), Pictures(), quant_format=form, activation_type=QuantType.QUInt8)
    classifier = load_classifier(tmp_path / "m.onnx", SMALL)
    own, expected_outputs, embedding = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=0.01)
    assert embedding.shape[1] == FEATURES
    assert cost.macs(classifier.graph, classifier.input.size) > FEATURES * 27 * (HEIGHT - 2) * (WIDTH - 2)


def branched(path: Path) -> Path:
    """The logits are scaled in an ``If`` whose branches capture the logits and the scale."""
    made = Made()
    made.trunk()
    made.node("Abs", [made.weight("minus", np.float32(-1).reshape(()))], "scale")
    made.weight("yes", np.array(True))
    branches = {}
    for name, operator in (("then_branch", "Mul"), ("else_branch", "Div")):
        node = helper.make_node(operator, ["logits", "scale"], [f"{name}_out"])
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["n", CLASSES])
        branches[name] = helper.make_graph([node], name, [], [output])
    made.node("If", ["yes"], "out", **branches)
    return made.save(path, "out")


@pytest.mark.parametrize("embedding", [None, "flat", "pooled", "positive"])
def test_subgraphs_and_what_they_capture_are_preserved(tmp_path: Path, embedding: str | None) -> None:
    classifier = load_classifier(branched(tmp_path / "m.onnx"), SMALL, embedding=embedding)
    own, expected_outputs, found = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-6)
    assert classifier.embedding == (embedding or "flat")
    assert found.shape[1] == FEATURES
    with pytest.raises(ClassifierError, match="no tensor 'then_branch_out'"):
        load_classifier(tmp_path / "m.onnx", SMALL, embedding="then_branch_out")


def test_without_a_last_layer_the_scores_are_the_embedding(tmp_path: Path) -> None:
    """A residual sum before the output, and no layer with weights in line."""
    made = Made()
    logits = made.trunk()
    made.node("Relu", [logits], "positive_logits")
    made.node("Add", [logits, "positive_logits"], "out")
    classifier = load_classifier(made.save(tmp_path / "m.onnx", "out"), SMALL)
    assert classifier.embedding == classifier.scores == "out"


def test_a_built_in_batch_size_is_detected_by_running(tmp_path: Path) -> None:
    made = Made()
    made.trunk()
    made.node("Reshape", ["logits", made.weight("sizes", np.array([1, CLASSES]))], "out")
    classifier = load_classifier(made.save(tmp_path / "m.onnx", "out"), SMALL)
    assert classifier.batch == 1
    own, expected_outputs, _ = outputs_of(classifier)
    np.testing.assert_allclose(own, expected_outputs, atol=1e-6)


def damaged(path: Path, number: float, kernel: str) -> Path:
    model = onnx.load(str(wide(path)))
    [weight] = [one for one in model.graph.initializer if one.name == kernel]
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = number
    weight.CopyFrom(numpy_helper.from_array(values, kernel))
    onnx.save(model, str(path))
    return path


def elsewhere(path: Path) -> Path:
    model = onnx.load(str(wide(path)))
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_weights_are_read_and_a_missing_file_is_named(tmp_path: Path) -> None:
    path = elsewhere(tmp_path / "m.onnx")
    own, expected_outputs, _ = outputs_of(load_classifier(path, SMALL))
    np.testing.assert_allclose(own, expected_outputs, atol=1e-6)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:10])
    with pytest.raises(ClassifierError, match=r"weights in weights\.bin") as cut:
        load_classifier(path, SMALL)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ClassifierError, match=r"keeps weights in 'weights\.bin', which is not beside it") as gone:
        load_classifier(path, SMALL)
    assert "\n" not in str(cut.value) + str(gone.value)


def test_unsupported_versions_are_named(tmp_path: Path) -> None:
    model = onnx.load(str(wide(tmp_path / "m.onnx")))
    model.ir_version = 99
    onnx.save(model, str(tmp_path / "ir.onnx"))
    with pytest.raises(ClassifierError, match=r"\(IR\) 99, and ONNX Runtime [\d.]+ knows up to \d+"):
        load_classifier(tmp_path / "ir.onnx", SMALL)
    model.ir_version, model.opset_import[0].version = 8, 99
    onnx.save(model, str(tmp_path / "opset.onnx"))
    with pytest.raises(ClassifierError, match=r"operator set 99 of ai\.onnx, and ONNX Runtime [\d.]+ knows up to \d+"):
        load_classifier(tmp_path / "opset.onnx", SMALL)


def test_nan_and_infinite_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"gives NaN .* for any picture"):
        load_classifier(damaged(tmp_path / "m.onnx", np.nan, "bias"), SMALL)
    made = Made()
    made.node("Div", [made.trunk(), made.weight("zero", np.float32(0).reshape(()))], "out")
    with pytest.raises(ClassifierError, match="gives infinite scores for any picture"):
        load_classifier(made.save(tmp_path / "n.onnx", "out"), SMALL)
    made = Made()  # divides by the maximum of the image
    made.node("ReduceMax", ["image"], "most", axes=[1, 2, 3])
    made.node("Div", ["image", "most"], "normal")
    with pytest.raises(ClassifierError, match=r"gives NaN .* for a black picture"):
        load_classifier(made.save(tmp_path / "o.onnx", made.node("Identity", [made.trunk("normal")], "out")), SMALL)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"PK\x03\x04" + bytes(100), "but a PyTorch or Keras file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "but a Keras file"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "but a TensorFlow Lite file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html>", "is no ONNX file"),
        (b"", "is no ONNX file"),
    ],
)
def test_files_of_other_formats_are_named(tmp_path: Path, start: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(start)
    with pytest.raises(ClassifierError, match=message):
        load_classifier(tmp_path / "m.onnx", UNIT)


def test_an_unknown_operator_or_a_wrong_size_is_named(tmp_path: Path) -> None:
    made = Made()
    made.trunk()
    made.nodes.append(helper.make_node("Magic", ["logits"], ["out"], domain="my.company"))
    model = onnx.load(str(made.save(tmp_path / "m.onnx", "out")))
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(ClassifierError, match=r"cannot load it: .*my\.company:Magic"):
        load_classifier(tmp_path / "m.onnx", SMALL)
    made = Made()
    made.weight("all", np.zeros((3 * HEIGHT * WIDTH, CLASSES), np.float32))
    made.node("Flatten", ["image"], "row")
    path = made.save(tmp_path / "n.onnx", made.node("MatMul", ["row", "all"], "out"), shape=("n", 3, "h", "w"))
    with pytest.raises(ClassifierError, match="the model does not run"):
        load_classifier(path, UNIT)
    assert load_classifier(path, parse_preprocessing(f"unit,{WIDTH}x{HEIGHT}")).input.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imagenet,stretch", {"fit": "stretch", "crop": 1.0}),
        ("imagenet,bgr", {"colour": "bgr", "mean": PRESETS["imagenet"].mean[::-1]}),
        ("imagenet,bgr,bgr", {"colour": "bgr", "mean": PRESETS["imagenet"].mean[::-1]}),
        ("caffe", {"colour": "bgr", "mean": (103.939, 116.779, 123.68)}),
        ("unit,letterbox,320x180,linear", {"fit": "letterbox", "side": 320, "height": 180, "scaling": "linear"}),
        ("unit,64x64", {"side": 64, "height": None}),
        ('{"side":8,"mean":[1,2,3],"std":[1,1,1],"fit":"letterbox","fill":114}', {"fill": 114}),
    ],
)
def test_preprocessing_is_a_preset_with_changes_or_json(text: str, expected: dict[str, Any]) -> None:
    spec = parse_preprocessing(text)
    assert {name: getattr(spec, name) for name in expected} == expected


@pytest.mark.parametrize("text", ["unit,sideways", "unit,0x9", "unit,9000x9", "unit,x", '{"side":8', "{" * 9999, ""])
def test_the_error_about_unknown_preprocessing_is_one_line(text: str) -> None:
    with pytest.raises(ClassifierError) as refused:
        parse_preprocessing(text)
    assert "\n" not in str(refused.value)

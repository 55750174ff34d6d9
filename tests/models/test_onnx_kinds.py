"""Any ONNX classifier is taken as it is, and says what ONNX Runtime says of the same file; what is not is refused with
the reason, before anything is trained."""

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
    preset,
    probes,
    served,
    understand,
)
from cachenet.models.export.head import probabilities
from cachenet.models.report.scores import softmax
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, crop, preprocessor
from tests.models.onnx_kinds import CLASSES, HEIGHT, SEEN, WIDTH, Made, taken, wide

UNIT = PRESETS["unit"]
SMALL = Input(WIDTH, UNIT.mean, UNIT.std, height=HEIGHT)


def said(classifier: Classifier) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Of pictures: how sure the bundle's model is of each label, how sure ONNX Runtime's answers from the file are, and
    the embeddings."""
    spec = classifier.input
    prepare = preprocessor(spec)
    batch = np.concatenate([prepare(crop(picture, spec)) for picture in probes(spec).values()])
    session = ort.InferenceSession(classifier.graph.SerializeToString())
    name = session.get_inputs()[0].name
    groups = np.split(batch, len(batch)) if classifier.batch == 1 else [batch]
    made = [session.run([classifier.scores, classifier.embedding], {name: group}) for group in groups]
    scores, embedding = (np.concatenate([one[place] for one in made]) for place in (0, 1))
    assert scores.dtype == np.float32
    assert scores.shape == (len(batch), len(classifier.labels))
    bare = ort.InferenceSession(str(classifier.path))
    outputs = [bare.run(None, {bare.get_inputs()[0].name: classifier.native.taken(one[None])})[0] for one in batch]
    theirs = probabilities(np.concatenate([one.reshape(1, -1) for one in outputs]), classifier.head)
    return softmax(scores), theirs, embedding


def test_a_layout_and_a_type_change_nothing_about_the_answers(tmp_path: Path) -> None:
    """Of one network, exported in five ways."""
    plain = understand(wide(tmp_path / "plain.onnx"), SMALL)
    expected, _, _ = said(plain)
    assert np.ptp(expected, axis=0).max() > 0.1, "the pictures differ"
    for nhwc, kind, room in (
        (True, TensorProto.FLOAT, 1e-6),
        (False, TensorProto.FLOAT16, 2e-2),
        (True, TensorProto.UINT8, 1e-5),
        (False, TensorProto.UINT8, 1e-5),
        (True, TensorProto.INT8, 1e-5),
    ):
        classifier = understand(wide(tmp_path / "m.onnx", nhwc=nhwc, kind=kind), SMALL)
        assert classifier.input.size == (WIDTH, HEIGHT)
        ours, theirs, embedding = said(classifier)
        np.testing.assert_allclose(ours, expected, atol=room)
        np.testing.assert_allclose(ours, theirs, atol=max(room, 2e-3) if kind == TensorProto.FLOAT16 else 1e-5)
        assert embedding.shape[1] == SEEN


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
def test_what_a_bundle_holds_is_what_a_session_runs_on_pictures(tmp_path: Path, nhwc: bool, kind: int) -> None:
    path = wide(tmp_path / "m.onnx", nhwc=nhwc, kind=kind)
    classifier = understand(path, SMALL)
    onnx.save(served(classifier, {"model": "full"}), str(tmp_path / "served.onnx"))
    tensor = preprocessor(classifier.input)(crop(probes(classifier.input)["noisy"], classifier.input))
    bare = ort.InferenceSession(str(path))
    [expected] = bare.run(None, {"image": taken(tensor, nhwc, kind)})
    ours = softmax(Session(tmp_path / "served.onnx", "cpu").run(tensor))
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_grey_models_see_grey_pictures(tmp_path: Path) -> None:
    classifier = understand(wide(tmp_path / "m.onnx", channels=1), PRESETS["imagenet"])
    assert classifier.input.colour == "grey"
    ours, theirs, _ = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ClassifierError, match="is for grey, and the model takes three channels"):
        understand(wide(tmp_path / "m.onnx"), preset("unit,grey"))


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
def test_sizes_that_the_graph_does_not_tell_show_when_it_runs(tmp_path: Path, shape: Any, nhwc: bool) -> None:
    laid = [shape[place] for place in (0, 2, 3, 1)] if nhwc and shape is not None else shape
    classifier = understand(wide(tmp_path / "m.onnx", nhwc=nhwc, shape=laid, gives=None), SMALL)
    assert classifier.native.layout == ("nhwc" if nhwc else "nchw")
    assert classifier.input.size == (WIDTH, HEIGHT)
    assert classifier.batch == (1 if shape is not None and shape[0] == 1 else None)
    ours, theirs, _ = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert cost.macs(classifier.graph, classifier.input.size) > SEEN * 27 * (HEIGHT - 2) * (WIDTH - 2)


def test_pixels_as_they_are_need_no_preprocessing_and_are_never_normalised(tmp_path: Path) -> None:
    path = wide(tmp_path / "m.onnx", kind=TensorProto.UINT8, nhwc=True)
    by_itself = understand(path).input
    assert (by_itself.mean, by_itself.std, by_itself.size) == ((0, 0, 0), (1, 1, 1), (WIDTH, HEIGHT))
    told = understand(path, preset("imagenet,stretch")).input
    assert (told.mean, told.std, told.fit) == ((0, 0, 0), (1, 1, 1), "stretch")


ONE = np.float32(1)
# What follows the logits, and what is then read from the file.
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
def test_whatever_follows_the_logits_confidence_is_that_of_the_logits(tmp_path: Path, head: str) -> None:
    classifier = understand(headed(tmp_path / "m.onnx", head), SMALL)
    ours, _, _ = said(classifier)
    spec = classifier.input
    batch = np.concatenate([preprocessor(spec)(picture) for picture in probes(spec).values()])
    exposed = onnx.load(str(tmp_path / "m.onnx"))
    exposed.graph.output.append(onnx.ValueInfoProto(name="logits"))
    [logits] = ort.InferenceSession(exposed.SerializeToString()).run(["logits"], {"image": batch})
    np.testing.assert_allclose(ours, softmax(logits * (0.5 if head.startswith("temperature") else 1)), atol=1e-4)


def test_probabilities_without_logits_in_the_graph_are_known_by_their_numbers(tmp_path: Path) -> None:
    """Two networks whose probabilities are averaged; and a sigmoid written out."""
    made = Made()
    logits = made.trunk()
    one = made.node("Softmax", [logits], "one", axis=1)
    made.node("Mul", [logits, made.weight("half", np.float32(0.5).reshape(()))], "cooler")
    other = made.node("Softmax", ["cooler"], "other", axis=1)
    made.node("Add", [one, other], "both")
    made.node("Mul", ["both", "half"], "out")
    classifier = understand(made.save(tmp_path / "m.onnx", "out"), SMALL)
    assert (classifier.head.meaning, classifier.head.logits) == ("softmax", None)
    ours, theirs, _ = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)

    made = Made()
    made.node("Neg", [made.trunk()], "negative")
    made.node("Exp", ["negative"], "power")
    made.node("Add", ["power", made.weight("one", np.float32(1).reshape(()))], "more")
    made.node("Reciprocal", ["more"], "out")
    classifier = understand(made.save(tmp_path / "n.onnx", "out"), SMALL)
    assert classifier.head.meaning == "sigmoid"
    ours, theirs, _ = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_one_sigmoid_tells_two_labels_apart(tmp_path: Path) -> None:
    made = Made()
    made.node("Slice", [made.trunk(), *(made.weight(n, np.array([v])) for n, v in (("a", 0), ("b", 1), ("c", 1)))], "z")
    made.node("Sigmoid", ["z"], "out")
    path = made.save(tmp_path / "m.onnx", "out", gives=("n", 1))
    classifier = understand(path, SMALL, labels=("cat", "dog"))
    ours, theirs, _ = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ClassifierError, match="2 scores for 1 labels"):
        understand(path, SMALL, labels=("cat",))


def _sigmoid_and(path: Path, after: str, number: float) -> Path:
    """A model of one sigmoid, and one more operator between its probability and a number."""
    made = Made()
    made.node("Slice", [made.trunk(), *(made.weight(n, np.array([v])) for n, v in (("a", 0), ("b", 1), ("c", 1)))], "z")
    made.node("Sigmoid", ["z"], "share")
    inputs = [made.weight("number", np.float32(number)), "share"]
    made.node(after, inputs, "out")
    return made.save(path, "out", gives=("n", 1))


@pytest.mark.parametrize(("after", "number", "of"), [("Sub", 1.0, 1.0), ("Mul", 100.0, 100.0)])
def test_what_follows_one_sigmoid_counts(after: str, number: float, of: float, tmp_path: Path) -> None:
    """The share of the other label, and per cent: the output says which label, not the tensor before the sigmoid."""
    path = _sigmoid_and(tmp_path / "m.onnx", after, number)
    classifier = understand(path, SMALL, labels=("cat", "dog"))
    bare = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = np.concatenate([preprocessor(SMALL)(picture) for picture in probes(SMALL).values()])
    second = bare.run(None, {bare.get_inputs()[0].name: batch})[0][:, 0] / of
    graph = ort.InferenceSession(classifier.graph.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = graph.run([classifier.scores], {graph.get_inputs()[0].name: batch})[0]
    np.testing.assert_allclose(softmax(scores)[:, 1], second, atol=1e-3)
    ours, theirs, _ = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_fixed_size_that_no_picture_is_made_in_is_refused(tmp_path: Path) -> None:
    made = Made()
    path = made.save(tmp_path / "m.onnx", made.trunk(), shape=("n", 3, 5000, 5000))
    with pytest.raises(ClassifierError, match="pictures of 5000x5000"):
        understand(path, SMALL)


class Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = [{"image": preprocessor(SMALL)(picture)} for picture in probes(SMALL).values()]

    def get_next(self) -> Any:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("softmax_", [False, True])
def test_int8_models_are_taken_in_either_form(tmp_path: Path, form: QuantFormat, softmax_: bool) -> None:
    floats = headed(tmp_path / "floats.onnx", "softmax" if softmax_ else "logits")
    out = tmp_path / "m.onnx"
    quantize_static(str(floats), str(out), Pictures(), quant_format=form, activation_type=QuantType.QUInt8)
    classifier = understand(tmp_path / "m.onnx", SMALL)
    ours, theirs, embedding = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=0.01)
    assert embedding.shape[1] == SEEN
    assert cost.macs(classifier.graph, classifier.input.size) > SEEN * 27 * (HEIGHT - 2) * (WIDTH - 2)


def branched(path: Path) -> Path:
    """The logits are scaled within an ``If`` whose branches take them, and a scale, from outside."""
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
def test_graphs_within_a_graph_are_kept_with_what_they_take_from_it(tmp_path: Path, embedding: str | None) -> None:
    classifier = understand(branched(tmp_path / "m.onnx"), SMALL, embedding=embedding)
    ours, theirs, found = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert classifier.embedding == (embedding or "flat")
    assert found.shape[1] == SEEN
    with pytest.raises(ClassifierError, match="no tensor 'then_branch_out'"):
        understand(tmp_path / "m.onnx", SMALL, embedding="then_branch_out")


def test_where_nothing_is_flat_before_the_scores_they_are_the_embedding(tmp_path: Path) -> None:
    """A residual sum before the output, and no layer with weights in line."""
    made = Made()
    logits = made.trunk()
    made.node("Relu", [logits], "positive_logits")
    made.node("Add", [logits, "positive_logits"], "out")
    classifier = understand(made.save(tmp_path / "m.onnx", "out"), SMALL)
    assert classifier.embedding == classifier.scores == "out"


def test_a_batch_that_is_built_in_is_found_out_though_the_graph_denies_it(tmp_path: Path) -> None:
    made = Made()
    made.trunk()
    made.node("Reshape", ["logits", made.weight("sizes", np.array([1, CLASSES]))], "out")
    classifier = understand(made.save(tmp_path / "m.onnx", "out"), SMALL)
    assert classifier.batch == 1
    ours, theirs, _ = said(classifier)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


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


def test_weights_in_another_file_are_read_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    path = elsewhere(tmp_path / "m.onnx")
    ours, theirs, _ = said(understand(path, SMALL))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[:10])
    with pytest.raises(ClassifierError, match=r"weights in weights\.bin") as cut:
        understand(path, SMALL)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ClassifierError, match=r"keeps weights in 'weights\.bin', which is not beside it") as gone:
        understand(path, SMALL)
    assert "\n" not in str(cut.value) + str(gone.value)


def test_versions_that_this_onnx_runtime_does_not_know_are_named(tmp_path: Path) -> None:
    model = onnx.load(str(wide(tmp_path / "m.onnx")))
    model.ir_version = 99
    onnx.save(model, str(tmp_path / "ir.onnx"))
    with pytest.raises(ClassifierError, match=r"\(IR\) 99, and ONNX Runtime [\d.]+ knows up to \d+"):
        understand(tmp_path / "ir.onnx", SMALL)
    model.ir_version, model.opset_import[0].version = 8, 99
    onnx.save(model, str(tmp_path / "opset.onnx"))
    with pytest.raises(ClassifierError, match=r"operator set 99 of ai\.onnx, and ONNX Runtime [\d.]+ knows up to \d+"):
        understand(tmp_path / "opset.onnx", SMALL)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"gives NaN .* for any picture"):
        understand(damaged(tmp_path / "m.onnx", np.nan, "bias"), SMALL)
    made = Made()
    made.node("Div", [made.trunk(), made.weight("zero", np.float32(0).reshape(()))], "out")
    with pytest.raises(ClassifierError, match="gives infinite scores for any picture"):
        understand(made.save(tmp_path / "n.onnx", "out"), SMALL)
    made = Made()  # as who divides by the deviation of a picture that has none
    made.node("ReduceMax", ["image"], "most", axes=[1, 2, 3])
    made.node("Div", ["image", "most"], "normal")
    with pytest.raises(ClassifierError, match=r"gives NaN .* for a black picture"):
        understand(made.save(tmp_path / "o.onnx", made.node("Identity", [made.trunk("normal")], "out")), SMALL)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"PK\x03\x04" + bytes(100), "but a PyTorch or Keras file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "but a Keras file"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "but a TensorFlow Lite file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html>", "is no ONNX file"),
        (b"", "is no ONNX file"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path: Path, start: bytes, told: str) -> None:
    (tmp_path / "m.onnx").write_bytes(start)
    with pytest.raises(ClassifierError, match=told):
        understand(tmp_path / "m.onnx", UNIT)


def test_an_operator_that_nobody_knows_and_a_size_that_does_not_fit_are_the_reason(tmp_path: Path) -> None:
    made = Made()
    made.trunk()
    made.nodes.append(helper.make_node("Magic", ["logits"], ["out"], domain="my.company"))
    model = onnx.load(str(made.save(tmp_path / "m.onnx", "out")))
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(ClassifierError, match=r"cannot load it: .*my\.company:Magic"):
        understand(tmp_path / "m.onnx", SMALL)
    made = Made()
    made.weight("all", np.zeros((3 * HEIGHT * WIDTH, CLASSES), np.float32))
    made.node("Flatten", ["image"], "row")
    path = made.save(tmp_path / "n.onnx", made.node("MatMul", ["row", "all"], "out"), shape=("n", 3, "h", "w"))
    with pytest.raises(ClassifierError, match="the model does not run"):
        understand(path, UNIT)
    assert understand(path, preset(f"unit,{WIDTH}x{HEIGHT}")).input.size == (WIDTH, HEIGHT)


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
def test_preprocessing_is_a_preset_and_words(text: str, expected: dict[str, Any]) -> None:
    spec = preset(text)
    assert {name: getattr(spec, name) for name in expected} == expected


@pytest.mark.parametrize("text", ["unit,sideways", "unit,0x9", "unit,9000x9", "unit,x", '{"side":8', "{" * 9999, ""])
def test_other_preprocessing_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ClassifierError) as refused:
        preset(text)
    assert "\n" not in str(refused.value)

"""Any ONNX image classifier, understood: what it takes, what it says, and where its embedding is.

What a builder must know of a stranger's model is in the graph or in its metadata, or has to be told; what cannot be
made sense of is refused with the name of what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import onnx
from onnx import ModelProto, TensorProto, helper

from shared.image import Input
from shared.refusal import Refusal

#: The head of a classifier, before which the embedding is.
_HEADS = ("Gemm", "MatMul")
#: What may stand between the head's scores and the output without changing which label is first.
_AFTER = ("Softmax", "LogSoftmax", "Add", "Identity", "Cast", "Reshape", "Flatten", "Squeeze")
#: Normalisations by name: of ImageNet as torchvision has it, of EfficientNet-Lite, and plain 0..1.
PRESETS: dict[str, Input] = {
    "imagenet": Input(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 224 / 256),
    "efficientnet-lite": Input(260, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), 260 / 292, "cubic"),
    "unit": Input(224, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
}
_METADATA = "cachenet."


class ClassifierError(Refusal):
    """A file that is no classifier that can be built from; the message says what is missing."""


@dataclass(frozen=True)
class Classifier:
    """``graph``: ends in ``scores`` ``(n, classes)``, logits where the graph has them, and ``embedding``, the names of
    two tensors; what comes after them is cut off."""

    graph: ModelProto
    input: Input
    labels: tuple[str, ...]
    scores: str
    embedding: str


def preset(text: str) -> Input:
    """How pictures are prepared, by the name of a preset or in the JSON of a bundle. Raises ``ClassifierError``."""
    if text in PRESETS:
        return PRESETS[text]
    try:
        return msgspec.json.decode(text, type=Input)
    except msgspec.DecodeError:
        raise ClassifierError(
            f"{text!r} is no preprocessing; give {', '.join(PRESETS)} or JSON with side, mean and std"
        ) from None


def understand(
    path: Path,
    preprocessing: Input | None = None,
    labels: tuple[str, ...] | None = None,
    embedding: str | None = None,
    role: Literal["full", "base"] = "full",
) -> Classifier:
    """Read a classifier. What is None is taken from the file's metadata (``cachenet.input``, ``cachenet.labels``) and
    its graph; labels that nobody knows are numbers. A side that the graph fixes stands over that of ``preprocessing``.
    Of a base model no embedding is wanted: it is the scores. Raises ``ClassifierError``."""
    model = _load(path)
    metadata = {entry.key.removeprefix(_METADATA): entry.value for entry in model.metadata_props}
    side = _side(path, model)
    spec = preprocessing or _declared(path, metadata)
    if spec is None:
        names = ", ".join(PRESETS)
        raise ClassifierError(
            f"{path.name} does not say how pictures are to be prepared for it; "
            f"give --{'base-' * (role == 'base')}preprocessing ({names})"
        )
    if side is not None and side != spec.side:
        spec = msgspec.structs.replace(spec, side=side)
    producers = {name: node for node in model.graph.node for name in node.output}
    classes = _classes(path, model)
    scores = _before_softmax(model, producers)
    middle = embedding or (scores if role == "base" else _embedding(path, scores, producers))
    if middle not in producers:
        raise ClassifierError(f"{path.name} has no tensor {middle!r} for an embedding; the graph's viewer names them")
    known = labels or tuple(filter(None, metadata.get("labels", "").split(",")))
    if known and len(known) != classes:
        raise ClassifierError(f"{path.name} has {classes} scores for {len(known)} labels")
    return Classifier(
        _ending_in(model, scores, middle), spec, known or tuple(str(n) for n in range(classes)), scores, middle
    )


def served(classifier: Classifier, properties: dict[str, str]) -> ModelProto:
    """The graph as a server runs it: ``scores`` alone, with ``properties`` under ``cachenet.*`` in its metadata."""
    model = _ending_in(classifier.graph, classifier.scores)
    output = helper.make_tensor_value_info(classifier.scores, TensorProto.FLOAT, ["n", len(classifier.labels)])
    model.graph.output[0].CopyFrom(output)
    kept = {entry.key: entry.value for entry in model.metadata_props if not entry.key.startswith(_METADATA)}
    helper.set_model_props(model, kept | {_METADATA + key: value for key, value in properties.items()})
    return model


def _load(path: Path) -> ModelProto:
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise ClassifierError(f"{path} is not there") from None
    except OSError as error:
        raise ClassifierError(f"{path}: {error.strerror}") from None
    except Exception:  # protobuf's error is of a package that is not ours to name
        raise ClassifierError(f"{path.name} is no ONNX file; export the model with torch.onnx.export") from None
    return model


def _side(path: Path, model: ModelProto) -> int | None:
    """Of the pictures that the graph takes, pixels; None where it takes any."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [given for given in model.graph.input if given.name not in weights]
    if len(inputs) != 1:
        raise ClassifierError(f"{path.name} takes {len(inputs)} inputs, and a camera gives one")
    kind = inputs[0].type.tensor_type
    dimensions = [size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim]
    shape = "x".join("?" if size is None else str(size) for size in dimensions)
    if len(dimensions) == 4 and dimensions[3] == 3 and dimensions[1] != 3:
        raise ClassifierError(f"{path.name} takes {shape}, channels last; export it with channels first (n, 3, h, w)")
    if len(dimensions) != 4 or dimensions[1] not in (3, None):
        raise ClassifierError(f"{path.name} takes {shape or 'a number'}, which is no colour picture (n, 3, h, w)")
    if kind.elem_type != TensorProto.FLOAT:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise ClassifierError(f"{path.name} takes {name}; export it to take float32")
    height, width = dimensions[2:]
    if height != width and None not in (height, width):
        raise ClassifierError(f"{path.name} takes pictures of {width}x{height}; only square ones can be made")
    return height or width


def _declared(path: Path, metadata: dict[str, str]) -> Input | None:
    if (text := metadata.get("input")) is None:
        return None
    try:
        return msgspec.json.decode(text, type=Input)
    except msgspec.ValidationError as error:
        raise ClassifierError(f"{path.name}: its metadata cachenet.input is damaged ({error})") from None


def _classes(path: Path, model: ModelProto) -> int:
    if len(model.graph.output) != 1:
        names = ", ".join(output.name for output in model.graph.output)
        raise ClassifierError(f"{path.name} has {len(model.graph.output)} outputs ({names}); one of scores is needed")
    shape = model.graph.output[0].type.tensor_type.shape.dim
    classes = shape[1].dim_value if len(shape) == 2 else 0
    if len(shape) != 2 or classes == 0:
        raise ClassifierError(f"{path.name}: its output is not (n, classes), a score for each class")
    if classes < 2:
        raise ClassifierError(f"{path.name} has one class; there is nothing to tell apart")
    return int(classes)


def _before_softmax(model: ModelProto, producers: dict[str, onnx.NodeProto]) -> str:
    """The logits, where the output is a softmax of them: what a temperature is for."""
    name = str(model.graph.output[0].name)
    while (node := producers.get(name)) is not None and node.op_type in ("Softmax", "Identity"):
        name = str(node.input[0])
    return name


def _embedding(path: Path, scores: str, producers: dict[str, onnx.NodeProto]) -> str:
    """What the last fully connected layer sees."""
    name = scores
    while (node := producers.get(name)) is not None:
        if node.op_type in _HEADS:
            return str(node.input[0])
        if node.op_type not in _AFTER:
            break
        name = str(next((given for given in node.input if given in producers), node.input[0]))
    raise ClassifierError(
        f"{path.name} does not end in a fully connected layer (Gemm, MatMul); name what to use: --embedding NAME"
    )


def _ending_in(model: ModelProto, *outputs: str) -> ModelProto:
    """The graph with these for its outputs and nothing that only others need."""
    cut = ModelProto()
    cut.CopyFrom(model)
    needed, nodes = set(outputs), []
    for node in reversed(cut.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    kept = [node.SerializeToString() for node in reversed(nodes)]
    del cut.graph.node[:], cut.graph.output[:]
    cut.graph.node.extend(onnx.NodeProto.FromString(node) for node in kept)
    for name in dict.fromkeys(outputs):
        cut.graph.output.append(onnx.ValueInfoProto(name=name))
    return cut

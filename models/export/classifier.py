"""Reads any ONNX image classifier and converts it to the form of bundle models.

Input, meaning of the output and embedding come from the graph, the metadata, trial runs and the user's options. The
result takes ``(n, channels, height, width)`` float32 and gives scores whose softmax is the model's confidence.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from cachenet.models.export import head, metadata
from cachenet.models.export.graph_edit import Ancestry, Editor, ending_in
from cachenet.models.export.head import Head
from cachenet.models.export.metadata import PREFIX
from cachenet.models.export.native import Native, canonical, natives
from cachenet.models.export.onnx_file import ClassifierError, OnnxRun, inputs, load, properties
from cachenet.models.export.preprocessing import PRESETS, parse_preprocessing
from cachenet.shared.inference.image import Input, Picture, Tensor, crop, preprocessor

__all__ = [
    "PRESETS",
    "Classifier",
    "ClassifierError",
    "load_classifier",
    "parse_preprocessing",
    "probe_images",
    "serving_graph",
]

#: Names of the probe images, in order.
_PROBES = ("black", "white", "coarse", "coloured", "fine", "grey", "noisy")
#: Maximum difference of the scores of an image alone and in a batch, as a share of their range.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Classifier:
    """A classifier in the form of bundle models."""

    graph: ModelProto  # Model that ends in the tensors ``scores`` and ``embedding``
    input: Input  # Preprocessing
    labels: tuple[str, ...]  # Labels in the order of the scores
    scores: str  # Name of the tensor of scores ``(n, classes)``
    embedding: str  # Name of the tensor of embeddings
    path: Path  # User's file
    native: Native  # Input of that file
    head: Head  # Meaning of its output

    @property
    def batch(self) -> int | None:
        """Batch size of ``graph``: 1, or None for any."""
        return inputs(self.graph.graph)[0].type.tensor_type.shape.dim[0].dim_value or None


def load_classifier(
    path: Path,
    preprocessing: Input | None = None,
    labels: tuple[str, ...] | None = None,
    embedding: str | None = None,
    role: Literal["full", "base"] = "full",
) -> Classifier:
    """Read a classifier and run it on probe images.

    Args:
        preprocessing: Preprocessing; None for that in the metadata. What the graph fixes takes precedence.
        labels: Labels; None for those in the metadata, or numbers.
        embedding: Name of the tensor of embeddings; None for the input of the last operator with weights.
        role: A ``base`` model needs no embedding; the scores take its place.

    Raises:
        ClassifierError: The file is no usable classifier.
    """
    model, name = load(path), path.name
    readings = natives(name, model)
    spec = preprocessing or metadata.read_preprocessing(name, properties(model))
    if spec is None and readings[0].is_integer and readings[0].height and readings[0].width:
        spec = PRESETS["raw"]
    if spec is None:
        raise ClassifierError(
            f"{name} does not say how pictures are to be prepared for it; "
            f"give {'--set base_preprocessing=' if role == 'base' else '--preprocessing '}({', '.join(PRESETS)})"
        )
    if len(model.graph.output) != 1:
        names = ", ".join(output.name for output in model.graph.output)
        raise ClassifierError(f"{name} has {len(model.graph.output)} outputs ({names}); one of scores is needed")
    found = _first_that_runs(path, model, readings, spec, embedding, role)
    known = labels or metadata.read_labels(name, properties(model))
    if known and len(known) != len(found.labels):
        raise ClassifierError(f"{name} has {len(found.labels)} scores for {len(known)} labels")
    return replace(found, labels=known or found.labels)


def serving_graph(classifier: Classifier, about: dict[str, str]) -> ModelProto:
    """Return the model for a bundle: its only output is ``scores``, and ``about`` is in the metadata."""
    model = ending_in(classifier.graph, classifier.scores)
    output = helper.make_tensor_value_info(classifier.scores, TensorProto.FLOAT, ["n", len(classifier.labels)])
    model.graph.output[0].CopyFrom(output)
    others = {key: value for key, value in properties(model).items() if not key.startswith(PREFIX)}
    helper.set_model_props(model, others | {PREFIX + key: value for key, value in about.items()})
    return model


def probe_images(spec: Input) -> dict[str, Picture]:
    """Return probe images of a model's input size by name: black, white, blocks of colour, a gradient, and noise."""
    width, height = spec.size
    rng = np.random.default_rng(0)
    found = {"black": np.zeros((height, width, 3), np.uint8), "white": np.full((height, width, 3), 255, np.uint8)}
    for name, cells in (("coarse", 2), ("coloured", 3), ("fine", 8)):
        blocks = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        found[name] = np.asarray(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    gradient = np.linspace(0, 255, width).astype(np.uint8)
    found["grey"] = np.repeat(np.repeat(gradient[None, :, None], height, 0), 3, 2)
    found["noisy"] = rng.integers(0, 256, (height, width, 3), np.uint8)
    return found


def _check(name: str, bad: npt.NDArray[np.bool_], what: str) -> None:
    """Raise ``ClassifierError`` if a score of a probe image is ``bad`` ``(n, classes)``."""
    if bad.any():
        pictures = [picture for picture, row in zip(_PROBES, bad, strict=True) if row.any()]
        which = "any picture" if len(pictures) == len(bad) else f"a {pictures[0]} picture"
        raise ClassifierError(
            f"{name} gives {what} for {which}; its weights are damaged, or too large for its precision"
        )


class _RunError(ClassifierError):
    """The model does not run with this reading of its input."""


def _first_that_runs(
    path: Path, model: ModelProto, readings: list[Native], spec: Input, embedding: str | None, role: str
) -> Classifier:
    """Try each reading. Raises the ``ClassifierError`` of the first and likeliest one if none runs."""
    native, *rest = readings
    try:
        return _try(path, model, native, native.fitted(spec), embedding, role)
    except _RunError as error:
        if not rest:
            raise
        with contextlib.suppress(_RunError):
            return _first_that_runs(path, model, rest, spec, embedding, role)
        raise error from None


def _try(path: Path, model: ModelProto, native: Native, spec: Input, embedding: str | None, role: str) -> Classifier:
    """Run the model on the probe images, and add the nodes from its output to scores; labels are numbers."""
    name = path.name
    if native.batch not in (None, 1):
        raise ClassifierError(f"{name} takes batches of {native.batch} only; export it with a free batch size")
    prepare = preprocessor(spec)
    images = np.concatenate([prepare(crop(picture, spec)) for picture in probe_images(spec).values()])
    graph = canonical(model, native, native.batch)
    output = str(graph.graph.output[0].name)
    ancestry = Ancestry(graph.graph, inputs(graph.graph)[0].name)
    found = head.logits_before(ancestry, output)
    if embedding is not None and embedding not in ancestry.makers:
        raise ClassifierError(
            f"{name} has no tensor {embedding!r} for an embedding, or has it within a branch; "
            "a graph viewer shows the names"
        )
    features = embedding or (None if role == "base" else head.features_before(ancestry, output))
    wanted = list(dict.fromkeys(tensor for tensor in (output, found and found[1], features) if tensor is not None))
    run = OnnxRun(ending_in(graph, *wanted), name)
    try:
        singles = [run(wanted, images[at : at + 1]) for at in range(len(images))]
    except ClassifierError as error:
        raise _RunError(str(error)) from None
    values = {tensor: np.concatenate([single[at] for single in singles]) for at, tensor in enumerate(wanted)}
    if native.batch is None and not _runs_in_batches(run, wanted, images, values):
        graph = canonical(model, native, 1)
    scores = _rows(name, values[output], len(images))
    _check(name, np.isnan(scores), "NaN (not a number)")
    if scores.shape[1] == 1 and (found is None or found[0] not in ("Sigmoid", "HardSigmoid")):
        raise ClassifierError(f"{name} has one class; there is nothing to tell apart")
    logits = values[found[1]].reshape(len(images), -1) if found is not None else None
    meaning = head.head_of(scores, found, logits)
    if meaning.logits is None:
        _check(name, np.isinf(scores), "infinite scores")
    editor = Editor(graph)
    source = values[meaning.logits or output]
    kind = int(helper.np_dtype_to_tensor_dtype(source.dtype))
    scores_name = head.scores_of(editor, meaning, output, kind, source.shape)
    if features is None or (embedding is None and not head.is_embedding(values[features])):
        features = scores_name
    else:
        if values[features].ndim < 2 or not np.issubdtype(values[features].dtype, np.number):
            raise ClassifierError(f"{name}: {features!r} holds no numbers for each picture, so it is no embedding")
        if values[features].dtype != np.float32:
            features = editor.append("Cast", [features], "embedding_float", to=TensorProto.FLOAT)
    cut, numbers = ending_in(graph, scores_name, features), tuple(map(str, range(max(2, scores.shape[1]))))
    return Classifier(cut, spec, numbers, scores_name, features, path, native, meaning)


def _runs_in_batches(run: OnnxRun, tensors: list[str], images: Tensor, singles: dict[str, npt.NDArray[Any]]) -> bool:
    """Whether a batch gives the values of single images; many exports have a built-in batch size of one."""
    try:
        batch = run(tensors, images)
    except ClassifierError:
        return False
    if any(values.shape != singles[tensor].shape for tensor, values in zip(tensors, batch, strict=True)):
        return False
    values, expected = batch[0].astype(np.float64), singles[tensors[0]].astype(np.float64)
    finite = np.isfinite(values) & np.isfinite(expected)
    tolerance = _TOLERANCE * max(float(np.ptp(expected[finite])) if finite.any() else 0.0, 1e-6)
    return bool((np.abs(values[finite] - expected[finite]) <= tolerance).all())


def _rows(name: str, output: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Reshape the output of ``count`` images to ``(count, classes)``. Raises ``ClassifierError`` if it is not that."""
    if not np.issubdtype(output.dtype, np.number):
        raise ClassifierError(f"{name}: its output holds {output.dtype}, not a score for each class")
    if output.ndim < 2 or len(output) != count or sum(size > 1 for size in output.shape[1:]) > 1:
        shape = " x ".join(("n", *map(str, output.shape[1:])))
        raise ClassifierError(f"{name}: its output is {shape}, not (n, classes), a score for each class")
    return output.reshape(count, -1)

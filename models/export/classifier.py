"""Any ONNX image classifier, understood: what it takes, what it says, and where its embedding is.

What a builder must know of a user's model is in the graph or in its metadata, shows when it runs, or has to be
told; what cannot be made sense of is refused with the reason. What is built from is the same model with one input,
``(n, channels, height, width)`` float32, and scores whose softmax is how sure it is, so that whoever runs a bundle need
not know what it was.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from cachenet.models.export import head, metadata
from cachenet.models.export.graph_edit import Ancestry, Editor, ending_in
from cachenet.models.export.head import Head
from cachenet.models.export.metadata import PREFIX
from cachenet.models.export.native import Native, canonical, natives
from cachenet.models.export.onnx_file import ClassifierError, OnnxRun, load, properties
from cachenet.shared.inference.image import Input, Picture, Tensor, crop, preprocessor

__all__ = ["PRESETS", "Classifier", "ClassifierError", "preset", "probes", "served", "understand"]

#: Normalisations by name: of ImageNet as torchvision has it, of EfficientNet-Lite, 0..1, -1..1, of Caffe's models
#: (blue first, means off), and pixels as they are.
PRESETS: dict[str, Input] = {
    "imagenet": Input(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 224 / 256),
    "efficientnet-lite": Input(260, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), 260 / 292, "cubic"),
    "unit": Input(224, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "signed": Input(224, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": Input(224, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 224 / 256, colour="bgr"),
    "raw": Input(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_WORDS: dict[str, dict[str, Any]] = {
    "stretch": {"fit": "stretch", "crop": 1.0},
    "letterbox": {"fit": "letterbox", "crop": 1.0},
    "crop": {"fit": "crop"},
    **{word: {"colour": word} for word in ("rgb", "bgr", "grey")},
    **{word: {"scaling": word} for word in ("area", "linear", "cubic")},
}
_PROBES = ("black", "white", "coarse", "coloured", "fine", "grey", "noisy")
#: Scores of one picture alone and of the same among others may differ by so much of their range.
_ALIKE = 0.02


@dataclass(frozen=True)
class Classifier:
    """``graph``: ends in ``scores`` ``(n, classes)``, whose softmax is how sure the model is, and ``embedding``, the
    names of two tensors; what comes after them is cut off. ``native``, ``head``: what the file at ``path`` takes and
    gives."""

    graph: ModelProto
    input: Input
    labels: tuple[str, ...]
    scores: str
    embedding: str
    path: Path
    native: Native
    head: Head

    @property
    def batch(self) -> int | None:
        """How many pictures a run of ``graph`` must have: 1, or None for any number."""
        picture = _picture(self.graph)
        [given] = [one for one in self.graph.graph.input if one.name == picture]
        return given.type.tensor_type.shape.dim[0].dim_value or None


def preset(text: str) -> Input:
    """How pictures are prepared: the name of a preset, words after it (``imagenet,stretch,bgr``, ``unit,320x180``), or
    the JSON of a bundle. Raises ``ClassifierError``."""
    name, *words = text.split(",")
    if name not in PRESETS:
        try:
            return msgspec.json.decode(text, type=Input)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            why = f" ({error})" if text.lstrip().startswith("{") else ""
            raise ClassifierError(
                f"{text!r} is no preprocessing{why}; give {', '.join(PRESETS)} or JSON with side, mean and std"
            ) from None
    spec = PRESETS[name]
    for word in words:
        changes = _WORDS.get(word)
        width, _, height = word.partition("x")
        if changes is None and width.isdecimal() and height.isdecimal():
            changes = {"side": int(width), "height": None if width == height else int(height)}
        if changes is None:
            raise ClassifierError(f"{word!r} in {text!r} is none of {', '.join(_WORDS)}, nor a size as in 320x180")
        if {word, spec.colour} == {"rgb", "bgr"}:
            changes = {**changes, "mean": spec.mean[::-1], "std": spec.std[::-1]}
        spec = msgspec.structs.replace(spec, **changes)
    try:
        return msgspec.convert(msgspec.to_builtins(spec), Input)
    except msgspec.ValidationError as error:
        raise ClassifierError(f"{text!r} is no preprocessing ({error})") from None


def understand(
    path: Path,
    preprocessing: Input | None = None,
    labels: tuple[str, ...] | None = None,
    embedding: str | None = None,
    role: Literal["full", "base"] = "full",
) -> Classifier:
    """Read a classifier and try it on pictures. What is None is taken from the file's metadata and its graph; labels
    that nobody knows are numbers. What the graph fixes stands over ``preprocessing``. Of a base model no embedding is
    wanted: it is the scores. Raises ``ClassifierError``."""
    model, name = load(path), path.name
    readings = natives(name, model)
    spec = preprocessing or metadata.declared(name, properties(model))
    if spec is None and readings[0].pixels_as_they_are and readings[0].height and readings[0].width:
        spec = PRESETS["raw"]
    if spec is None:
        raise ClassifierError(
            f"{name} does not say how pictures are to be prepared for it; "
            f"give --{'base-' * (role == 'base')}preprocessing ({', '.join(PRESETS)})"
        )
    if len(model.graph.output) != 1:
        names = ", ".join(output.name for output in model.graph.output)
        raise ClassifierError(f"{name} has {len(model.graph.output)} outputs ({names}); one of scores is needed")
    trial = _tried(name, model, readings, spec, embedding, role)
    known = labels or metadata.labels(name, properties(model))
    if known and len(known) != trial.classes:
        raise ClassifierError(f"{name} has {trial.classes} scores for {len(known)} labels")
    known = known or tuple(str(number) for number in range(trial.classes))
    return Classifier(trial.graph, trial.spec, known, trial.scores, trial.embedding, path, trial.native, trial.head)


def served(classifier: Classifier, about: dict[str, str]) -> ModelProto:
    """The graph as a server runs it: ``scores`` alone, with ``about`` under ``cachenet.*`` in its metadata."""
    model = ending_in(classifier.graph, classifier.scores)
    output = helper.make_tensor_value_info(classifier.scores, TensorProto.FLOAT, ["n", len(classifier.labels)])
    model.graph.output[0].CopyFrom(output)
    kept = {key: value for key, value in properties(model).items() if not key.startswith(PREFIX)}
    helper.set_model_props(model, kept | {PREFIX + key: value for key, value in about.items()})
    return model


def probes(spec: Input) -> dict[str, Picture]:
    """Pictures of a model's size that differ, by ``_PROBES``: black, white, blocks of colour, a slope, and noise."""
    width, height = spec.size
    rng = np.random.default_rng(0)
    found = {"black": np.zeros((height, width, 3), np.uint8), "white": np.full((height, width, 3), 255, np.uint8)}
    for name, cells in (("coarse", 2), ("coloured", 3), ("fine", 8)):
        blocks = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        found[name] = np.asarray(cv2.resize(blocks, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    slope = np.linspace(0, 255, width).astype(np.uint8)
    found["grey"] = np.repeat(np.repeat(slope[None, :, None], height, 0), 3, 2)
    found["noisy"] = rng.integers(0, 256, (height, width, 3), np.uint8)
    return found


def _check(name: str, bad: npt.NDArray[np.bool_], what: str) -> None:
    """``bad`` ``(n, classes)``: which scores of ``probes`` are no numbers. Raises ``ClassifierError`` if any is."""
    if bad.any():
        pictures = [one for one, own in zip(_PROBES, bad, strict=True) if own.any()]
        which = "any picture" if len(pictures) == len(bad) else f"a {pictures[0]} picture"
        raise ClassifierError(
            f"{name} gives {what} for {which}; its weights are damaged, or too large for its precision"
        )


@dataclass(frozen=True)
class _Trial:
    """What a try has shown."""

    graph: ModelProto
    spec: Input
    scores: str
    embedding: str
    classes: int
    native: Native
    head: Head


def _tried(
    name: str, model: ModelProto, readings: list[Native], spec: Input, embedding: str | None, role: str
) -> _Trial:
    """The first of ``readings`` that runs. Raises ``ClassifierError``: the first one's, for that is the likeliest."""
    native, *rest = readings
    try:
        return _try(name, model, native, native.fitted(spec), embedding, role)
    except _RunError as error:
        if not rest:
            raise
        with contextlib.suppress(_RunError):
            return _tried(name, model, rest, spec, embedding, role)
        raise error from None


class _RunError(ClassifierError):
    """It does not run in this way, and may in another."""


def _try(name: str, model: ModelProto, native: Native, spec: Input, embedding: str | None, role: str) -> _Trial:
    if native.batch not in (None, 1):
        raise ClassifierError(f"{name} takes batches of {native.batch} only; export it with a free batch size")
    prepare = preprocessor(spec)
    pictures = np.concatenate([prepare(crop(picture, spec)) for picture in probes(spec).values()])
    graph = canonical(model, native, native.batch)
    output = str(graph.graph.output[0].name)
    picture = _picture(graph)
    ancestry = Ancestry(graph.graph, picture)
    found = head.logits_before(ancestry, output)
    if embedding is not None and embedding not in ancestry.makers:
        raise ClassifierError(
            f"{name} has no tensor {embedding!r} for an embedding, or has it within a branch; "
            "a graph viewer shows the names"
        )
    features = embedding or (None if role == "base" else head.features_before(ancestry, output))
    wanted = list(dict.fromkeys(one for one in (output, found and found[1], features) if one is not None))
    run = OnnxRun(ending_in(graph, *wanted), name)
    batch, made = native.batch, {}
    try:
        alone = [run(wanted, pictures[at : at + 1]) for at in range(len(pictures))]
    except ClassifierError as error:
        raise _RunError(str(error)) from None
    made = {one: np.concatenate([own[place] for own in alone]) for place, one in enumerate(wanted)}
    if batch is None and not _alike(run, wanted, pictures, made):
        batch = 1
        graph = canonical(model, native, batch)
    said = _rows(name, made[output], len(pictures))
    _check(name, np.isnan(said), "NaN (not a number)")
    if said.shape[1] == 1 and (found is None or found[0] not in ("Sigmoid", "HardSigmoid")):
        raise ClassifierError(f"{name} has one class; there is nothing to tell apart")
    logits = made[found[1]] if found is not None else None
    meant = head.head_of(said, found, None if logits is None else logits.reshape(len(logits), -1))
    if meant.logits is None:
        _check(name, np.isinf(said), "infinite scores")
    editor = Editor(graph)
    source = made[meant.logits or output]
    scores = head.scores_of(editor, meant, output, _kind(source), source.shape)
    if embedding is not None or (features is not None and head.is_embedding(made[features])):
        assert features is not None
        if made[features].ndim < 2 or not np.issubdtype(made[features].dtype, np.number):
            raise ClassifierError(f"{name}: {features!r} holds no numbers for each picture, so it is no embedding")
        if made[features].dtype != np.float32:
            features = editor.append("Cast", [features], "embedding_float", to=TensorProto.FLOAT)
    else:
        features = scores
    return _Trial(ending_in(graph, scores, features), spec, scores, features, max(2, said.shape[1]), native, meant)


def _alike(run: OnnxRun, wanted: list[str], pictures: Tensor, alone: dict[str, npt.NDArray[Any]]) -> bool:
    """Whether it says of pictures together what it says of each alone: many exports have a batch of one built in."""
    try:
        together = run(wanted, pictures)
    except ClassifierError:
        return False
    for one, own in zip(wanted, together, strict=True):
        if own.shape != alone[one].shape:
            return False
    given, said = together[0].astype(np.float64), alone[wanted[0]].astype(np.float64)
    both = np.isfinite(given) & np.isfinite(said)
    room = _ALIKE * max(float(np.ptp(said[both])) if both.any() else 0.0, 1e-6)
    return bool((np.abs(given[both] - said[both]) <= room).all())


def _rows(name: str, output: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """``output`` of ``count`` pictures as ``(count, classes)``. Raises ``ClassifierError`` if it is none."""
    if not np.issubdtype(output.dtype, np.number):
        raise ClassifierError(f"{name}: its output holds {output.dtype}, not a score for each class")
    if output.ndim < 2 or len(output) != count or sum(size > 1 for size in output.shape[1:]) > 1:
        shape = " x ".join(("n", *map(str, output.shape[1:])))
        raise ClassifierError(f"{name}: its output is {shape}, not (n, classes), a score for each class")
    return output.reshape(count, -1)


def _kind(values: npt.NDArray[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(values.dtype))


def _picture(model: ModelProto) -> str:
    weights = {weight.name for weight in model.graph.initializer}
    return next(str(given.name) for given in model.graph.input if given.name not in weights)

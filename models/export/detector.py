"""Reads any ONNX detector and converts it to the form of bundle models.

Input, decoder, labels and preprocessing come from the graph, the metadata, trial runs and the user's options. The
result takes ``(1, channels, height, width)`` float32, and its outputs are those of its decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from onnx import ModelProto, TensorProto, helper

from cachenet.models.data import coco
from cachenet.models.export import metadata
from cachenet.models.export.classifier import probe_images
from cachenet.models.export.find_decoder import DecoderError, Form, Outputs, find_decoder
from cachenet.models.export.graph_edit import Editor, ending_in
from cachenet.models.export.metadata import PREFIX
from cachenet.models.export.native import Native, canonical, natives
from cachenet.models.export.onnx_file import ClassifierError, OnnxRun, load, properties
from cachenet.models.export.preprocessing import DETECTOR_PRESETS, PRESETS
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.decoders import Decoder, DecoderKind
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import EngineError
from cachenet.shared.inference.image import Input, crop, preprocessor

#: Usual preprocessing of a decoder's models, by preset. Detectors of the other kinds differ.
_USUAL: dict[DecoderKind, str] = {
    "nanodet": "nanodet",
    "yolox": "yolox",
    "fastestdet": "fastestdet",
    "yolov5": "yolo",
    "yolov8": "yolo",
}
#: Least score of a decoder's models. FastestDet's scores are high: at .35 its precision on people was .27.
_SCORES: dict[DecoderKind, float] = {"fastestdet": 0.7}
#: Side of trial pictures for a model that takes any size: a multiple of all strides.
_TRIAL_SIDE = 384
#: Label of the only class of a detector without names.
_OBJECT = "object"
#: A label with the number of its class.
_NUMBERED = re.compile(r"(\d{1,5}): *(\S.*)")
#: Name of classes that a data set leaves out.
_UNUSED = "N/A"


class DetectorError(UserError):
    """A file is no usable detector. The message names what is missing."""


@dataclass(frozen=True)
class DetectorModel:
    """A detector in the form of bundle models.

    Example:
        model = load_detector(Path("nanodet.onnx"))
        found = model.detector(threads=2)(picture)
        print([model.labels[label] for label in found.labels])
    """

    graph: ModelProto  # Takes ``(1, channels, height, width)`` float32; its outputs are those of the decoder
    input: Input  # Preprocessing
    decoder: Decoder  # From outputs to boxes; ``classes`` are those of ``labels``
    labels: tuple[str, ...]  # Labels in use
    path: Path  # User's file
    native: Native  # Input of that file

    def detector(self, threads: int = 1) -> Detector:
        """The detector, running in this process. Raises ``UserError`` if ONNX Runtime cannot load it."""
        run = OnnxRun(self.graph, self.path.name, threads)
        return Detector(lambda batch: run(None, batch), self.input, self.decoder)


def load_detector(
    path: Path,
    preprocessing: Input | None = None,
    labels: tuple[str, ...] | None = None,
    kind: DecoderKind | None = None,
) -> DetectorModel:
    """Read a detector and run it on probe images.

    Args:
        preprocessing: Preprocessing; None for that in the metadata, or the usual one of the decoder. What the graph
            fixes takes precedence.
        labels: Names of all classes in order, or some of the known names, to use only those, or names with the numbers
            of their classes (``0: person``); None for all known names.
        kind: Decoder; None to find it.

    Raises:
        UserError: The file is no usable detector, or it is unclear which.
    """
    model, name = load(path), path.name
    entries = properties(model)
    own = _own_decoder(name, entries) if kind is None else None
    spec = preprocessing or _stated_preprocessing(name, entries)
    names = metadata.read_labels(name, entries)
    native, outputs, trial = _trial(name, model, spec)
    if own is not None:
        graph = canonical(model, native, 1)
        known = dict(zip(own.classes, names, strict=False))
        first = 0
        count: int | None = len(own.classes)
        decoder = own
    else:
        form = find_decoder(name, outputs, trial.size, kind, len(names) or None)
        graph = _in_form(canonical(model, native, 1), form, trial.size)
        first, count = form.first, form.classes
        known = _known_names(form, names)
        least = _SCORES.get(form.kind, Decoder(form.kind, ()).score)
        decoder = Decoder(form.kind, (), least, bins=form.bins, no_object=form.no_object)
    if spec is None:
        spec = _usual_preprocessing(name, native, decoder)
    fitted = native.fitted(spec)
    if fitted.fit in ("letterbox", "corner") and fitted.crop != 1:
        raise DetectorError(f"{name}: with {fitted.fit} a detector sees the whole frame; leave out crop")
    chosen = _chosen_names(name, known, labels, count, first)
    decoder = msgspec.structs.replace(decoder, classes=tuple(chosen))
    found = DetectorModel(graph, fitted, decoder, tuple(chosen.values()), path, native)
    if decoder.kind != "ssd":  # its outputs are made here
        _check(found, outputs, trial)
    return found


def is_detector(path: Path) -> bool:
    """Whether the outputs of the model in ``path`` are those of a detector and not of a classifier.

    Raises ``UserError`` if the file is no usable model.
    """
    model = load(path)
    if f"{PREFIX}decoder" in properties(model):
        return True
    declared = [output.type.tensor_type for output in model.graph.output]
    shapes: list[list[int]] = [[size.dim_value for size in one.shape.dim] for one in declared if one.HasField("shape")]
    unknown = len(shapes) < len(declared) or (len(shapes) == 1 and len(shapes[0]) > 2 and min(shapes[0][1:]) < 1)
    if unknown:
        try:
            _, values, _ = _trial(path.name, model, _stated_preprocessing(path.name, properties(model)))
        except ClassifierError:
            return False  # the classifier's error says why
        shapes = [list(one.shape) for [one, *_] in values.values()]
    if len(shapes) == 1:
        # A score for each class has one axis of more than one. Several such axes are boxes with scores, or a map.
        return sum(size > 1 for size in shapes[0][1:]) > 1
    # torchvision has no axis of pictures: boxes, and a label and a score of each.
    return max(map(len, shapes)) > 2 or ([4] in [shape[1:] for shape in shapes] and min(map(len, shapes)) == 1)


def detector_graph(detector: DetectorModel, about: dict[str, str]) -> ModelProto:
    """The model for a bundle, with ``about`` in its metadata, and all that ``load_detector`` needs to read it again."""
    graph = ModelProto()
    graph.CopyFrom(detector.graph)
    own = {
        "input": msgspec.json.encode(detector.input).decode(),
        "decoder": msgspec.json.encode(detector.decoder).decode(),
        "labels": metadata.format_labels(detector.labels),
    }
    others = {key: value for key, value in properties(graph).items() if not key.startswith(PREFIX)}
    helper.set_model_props(graph, others | {PREFIX + key: value for key, value in (about | own).items()})
    return graph


def _own_decoder(name: str, entries: Mapping[str, str]) -> Decoder | None:
    """The decoder in the metadata of a model that this builder wrote; None for none."""
    if (text := entries.get(f"{PREFIX}decoder")) is None:
        return None
    try:
        return msgspec.json.decode(text, type=Decoder)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise DetectorError(f"{name}: its metadata cachenet.decoder is damaged ({error}); give --decoder") from None


def _stated_preprocessing(name: str, entries: Mapping[str, str]) -> Input | None:
    """The preprocessing in the metadata; None for none."""
    if entries.get("task") == "detect" and "names" in entries:  # Ultralytics
        spec = DETECTOR_PRESETS["yolo"]
        try:
            height, width = msgspec.json.decode(entries.get("imgsz", ""), type=tuple[int, int])
            return msgspec.convert(
                msgspec.to_builtins(spec) | {"side": width, "height": None if width == height else height}, Input
            )
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError):
            return spec
    if entries.get("task") in ("segment", "pose", "obb"):
        raise DetectorError(f"{name} is a model for {entries['task']}; export one for detection")
    return metadata.read_preprocessing(name, entries)


def _trial(name: str, model: ModelProto, spec: Input | None) -> tuple[Native, Outputs, Input]:
    """Run the model on the probe images with the first reading of its input that runs.

    Returns:
        The reading, the outputs, and the preprocessing used.
    """
    side = {"side": _TRIAL_SIDE}
    first: ClassifierError | None = None
    for native in natives(name, model):
        if native.batch not in (None, 1):
            raise DetectorError(f"{name} takes batches of {native.batch} only; export it with a batch of 1")
        fitted = native.fitted(spec or msgspec.structs.replace(PRESETS["raw" if native.is_integer else "unit"], **side))
        prepare = preprocessor(fitted)
        try:
            run = OnnxRun(canonical(model, native, 1), name)
            runs = [run(None, prepare(crop(picture, fitted))) for picture in probe_images(fitted).values()]
        except ClassifierError as error:
            first = first or error
            continue
        names = [output.name for output in model.graph.output]
        return native, {name: [values[at] for values in runs] for at, name in enumerate(names)}, fitted
    raise first or DetectorError(f"{name} takes no picture")


def _in_form(graph: ModelProto, form: Form, size: tuple[int, int]) -> ModelProto:
    """The graph with the outputs that the decoder takes."""
    if form.kind != "ssd":
        return ending_in(graph, *form.outputs)
    editor = Editor(graph)
    table, *apart = form.outputs

    def columns(numbers: list[int], name: str) -> str:
        return editor.append("Gather", [table, np.array(numbers)], name, axis=-1)

    boxes = table
    if form.columns != (0, 1, 2, 3) or form.table != (None, None):
        boxes = columns(list(form.columns), "boxes")
    boxes = editor.append("Cast", [boxes], "float_boxes", to=TensorProto.FLOAT)
    if form.pixels:
        boxes = editor.append("Div", [boxes, np.array([*size, *size], np.float32)], "box_shares")
    # One picture: neither boxes nor their numbers need an axis of pictures.
    outputs = [editor.append("Reshape", [boxes, np.array([-1, 4])], "finished_boxes")]
    numbers = [columns([column], f"column_{column}") for column in form.table if column is not None]
    if len(apart) + len(numbers) == 2:
        # Classes first: apart and in the table alike.
        outputs += [
            editor.append("Reshape", [number, np.array([-1])], f"finished_{number}") for number in (*apart, *numbers)
        ]
    else:
        outputs += apart
    return ending_in(graph, *outputs)


def _known_names(form: Form, names: tuple[str, ...]) -> dict[int, str]:
    """Names of a detector's classes by number: those of the metadata, COCO's, or numbers.

    Finished boxes do not show the number of classes; they are taken for COCO's.
    """
    if names and form.classes in (None, len(names)):
        return {form.first + at: name for at, name in enumerate(names) if name != _UNUSED}
    if form.classes == 1:
        return {form.first: _OBJECT}
    if form.classes == len(coco.NAMES) or (form.classes is None and form.first == 0):
        return {form.first + at: name for at, name in enumerate(coco.NAMES)}
    # 90 classes are the numbers of the data set from 1 on, 91 have the background or nothing before them.
    if form.classes in (None, 90, 91):
        offset = form.first - 1 if form.classes == 90 else 0
        return {number + offset: name for number, name in zip(coco.NUMBERS, coco.NAMES, strict=True)}
    return {form.first + at: str(at) for at in range(form.classes or 0)}


def _chosen_names(
    name: str, known: dict[int, str], labels: tuple[str, ...] | None, count: int | None, first: int
) -> dict[int, str]:
    """The classes in use with their labels, in the order of the labels."""
    if labels is None:
        if len(set(known.values())) < len(known):
            raise DetectorError(f"{name} has two classes of one name; give --labels")
        return known
    if all(numbered := [_NUMBERED.fullmatch(label) for label in labels]):
        named = {int(found[1]): found[2] for found in numbered if found}
        if len(set(named.values())) < len(labels) or (count is not None and max(named) >= first + count):
            raise DetectorError(f"{name}: --labels has a number or a name twice, or a number of no class")
        return named
    numbers = {label: number for number, label in known.items()}
    if unknown := [label for label in labels if label not in numbers]:
        if count in (None, len(labels)):
            return {first + at: label for at, label in enumerate(labels)}
        listed = ", ".join(list(numbers)[:8]) + (", ..." if len(numbers) > 8 else "")
        raise DetectorError(
            f"{name} has no class {unknown[0]!r}; --labels names all its {count} classes in order, or some of {listed}"
        )
    return {numbers[label]: label for label in labels}


def _usual_preprocessing(name: str, native: Native, decoder: Decoder) -> Input:
    """The usual preprocessing of models of a kind."""
    if decoder.kind in _USUAL:
        return DETECTOR_PRESETS[_USUAL[decoder.kind]]
    if native.is_integer:
        return DETECTOR_PRESETS["ssd"]
    if decoder.no_object:
        return DETECTOR_PRESETS["detr"]
    listed = ", ".join([*PRESETS, *DETECTOR_PRESETS])
    raise DetectorError(
        f"{name} does not say how pictures are to be prepared for its decoder {decoder.kind}; "
        f"give --preprocessing ({listed})"
    )


def _check(detector: DetectorModel, outputs: Outputs, trial: Input) -> None:
    """Decode a probe image. Raises ``DetectorError`` if the outputs do not fit the decoder."""
    picture = probe_images(detector.input)["coloured"]
    if detector.input.size == trial.size:
        values = [outputs[output.name][0] for output in detector.graph.graph.output]
        find: Detector = Detector(lambda _: values, detector.input, detector.decoder)
    else:
        find = detector.detector()
    try:
        find(picture)
    except EngineError as error:
        raise DetectorError(f"{detector.path.name}: {error}") from None


__all__ = ["DecoderError", "DetectorError", "DetectorModel", "detector_graph", "is_detector", "load_detector"]

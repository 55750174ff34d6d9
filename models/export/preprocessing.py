"""Preprocessing by name, as users give it."""

from __future__ import annotations

from typing import Any

import msgspec

from cachenet.models.export.onnx_file import ClassifierError
from cachenet.shared.inference.image import Input

#: Preprocessing by name: ImageNet as in torchvision, EfficientNet-Lite, 0..1, -1..1, Caffe (BGR, mean subtracted), and
#: unnormalised pixels.
PRESETS: dict[str, Input] = {
    "imagenet": Input(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 224 / 256),
    "efficientnet-lite": Input(260, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), 260 / 292, "cubic"),
    "unit": Input(224, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "signed": Input(224, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": Input(224, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 224 / 256, colour="bgr"),
    "raw": Input(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
#: Preprocessing of detectors by name, as the authors' code does it: NanoDet-Plus, YOLOX, FastestDet, Ultralytics' YOLO,
#: TensorFlow's SSD, and DETR (Hugging Face, without the aspect ratio).
DETECTOR_PRESETS: dict[str, Input] = {
    "nanodet": Input(416, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), 1.0, "linear", "stretch", "bgr"),
    "yolox": Input(416, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, "linear", "corner", "bgr", 114),
    "fastestdet": Input(352, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 1.0, "linear", "stretch", "bgr"),
    "yolo": Input(640, (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 1.0, "linear", "letterbox", "rgb", 114),
    "ssd": Input(300, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, "linear", "stretch"),
    "detr": Input(800, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 1.0, "linear", "stretch"),
}
#: Changes of a preset by word.
_WORDS: dict[str, dict[str, Any]] = {
    "stretch": {"fit": "stretch", "crop": 1.0},
    "letterbox": {"fit": "letterbox", "crop": 1.0},
    "corner": {"fit": "corner", "crop": 1.0},
    "crop": {"fit": "crop"},
    **{word: {"colour": word} for word in ("rgb", "bgr", "grey")},
    **{word: {"scaling": word} for word in ("area", "linear", "cubic")},
}


def parse_preprocessing(text: str) -> Input:
    """Parse a preprocessing: a preset with changes (``imagenet,stretch,bgr``, ``unit,320x180``), or a bundle's JSON.

    Raises ``ClassifierError``.

    >>> parse_preprocessing("unit,320x180").size
    (320, 180)
    """
    name, *words = text.split(",")
    spec = PRESETS.get(name) or DETECTOR_PRESETS.get(name)
    if spec is None:
        try:
            return msgspec.json.decode(text, type=Input)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            why = f" ({error})" if text.lstrip().startswith("{") else ""
            raise ClassifierError(
                f"{text!r} is no preprocessing{why}; give {', '.join(PRESETS)}, of a detector also "
                f"{', '.join(DETECTOR_PRESETS)}, or JSON with side, mean and std"
            ) from None
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

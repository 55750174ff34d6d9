"""Does a full model with tiles teach a detector better, and is INT8 as good?

    python -m benchmarks.place_teacher --video clip.avi --full full.onnx \\
        --base small.onnx --labels person --learn 0:300 --tune 316:380 \\
        --measure 405:795 --json

The detector is fine-tuned twice: on the full model's objects in whole frames, and on
those in the frame and in four overlapping tiles of it together. Each is compared with
both on the measured frames. INT8 is the first one, with ranges from frames that it
learned from. F1 is that of single frames, times are the shortest of a run on one core.
An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.place import Parts, add_footage, f1, milliseconds, progress_bar
from cachenet.models.build_config import key
from cachenet.models.data.frames import find
from cachenet.models.detect import agreement, build, fine_tune
from cachenet.models.detect.footage import Block, read_block, take
from cachenet.models.export import quantise
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.shared.cascade.detect.detections import Boxes, Detections, checked
from cachenet.shared.command import exit
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.detector import Detector, in_input
from cachenet.shared.inference.image import Picture, preprocessor
from cachenet.shared.inference.suppression import survivors

_PROGRAM = "benchmarks.place_teacher"
#: Width and height of a tile, as a share of the frame's: neighbours share a quarter of the frame.
_TILE = 0.625
#: Distance from the inner edge of a tile within which a box may be cut, as a share of the tile.
_CUT = 0.01
#: Frames that give INT8 its ranges.
_CALIBRATION = 100


def tiled(detector: Detector, picture: Picture, overlap: float, classes: int) -> Detections:
    """The objects of a frame in the whole of it and in four tiles, without repetitions and without cut boxes."""
    height, width = picture.shape[:2]
    found = [detector(picture)]
    for left, top in ((x, y) for y in (0.0, 1 - _TILE) for x in (0.0, 1 - _TILE)):
        x, y, w, h = (round(a * b) for a, b in zip((left, top, _TILE, _TILE), (width, height) * 2, strict=True))
        one = detector(np.ascontiguousarray(picture[y : y + h, x : x + w]))
        one = one.take(_uncut(one.boxes, left, top))
        scale, shift = np.array([w / width, h / height] * 2), np.array([x / width, y / height] * 2)
        found.append(Detections((one.boxes * scale + shift).astype(np.float32), one.labels, one.scores))
    boxes, labels, scores = (
        np.concatenate([getattr(one, part) for one in found]) for part in ("boxes", "labels", "scores")
    )
    together = checked(boxes, labels, scores, classes)
    return together.take(survivors(together.boxes, together.labels, overlap, len(together)))


def _uncut(boxes: Boxes, left: float, top: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which boxes of a tile do not touch an edge inside the frame."""
    across = boxes[:, 2] < 1 - _CUT if left == 0.0 else boxes[:, 0] > _CUT
    down = boxes[:, 3] < 1 - _CUT if top == 0.0 else boxes[:, 1] > _CUT
    result: np.ndarray[Any, np.dtype[np.bool_]] = across & down
    return result


def with_tiles(full: DetectorModel, base: DetectorModel, pictures: Iterator[Picture], block: Block) -> Block:
    """``block`` with the objects of the full model with tiles."""
    lower = msgspec.structs.replace(full.decoder, score=full.decoder.score / 2)
    detector = replace(full, decoder=lower).detector(1)
    objects = []
    for picture, _ in zip(pictures, range(len(block)), strict=False):
        found = tiled(detector, picture, full.decoder.overlap, len(full.labels))
        objects.append(in_input(found, (picture.shape[1], picture.shape[0]), base.input))
    return replace(block, objects=tuple(objects))


def int8_of(model: DetectorModel, block: Block) -> DetectorModel:
    """The detector in INT8."""
    rows = np.unique(np.linspace(0, len(block) - 1, _CALIBRATION).astype(np.int64))
    prepare = preprocessor(model.input)
    images = np.concatenate([prepare(one) for one in agreement.as_pictures(block.pictures[rows])])
    return replace(model, graph=quantise.int8(model.graph, images))


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures. Raises ``UserError``."""
    labels = tuple(chosen.labels.split(",")) if chosen.labels else None
    full, base = build.common_labels(
        load_detector(chosen.full, labels=labels), load_detector(chosen.base, labels=labels)
    )
    frames = find(chosen.video)
    with progress_bar() as progress:
        whole = read_block(full, frames, base.input, chosen.work, 1, progress)
        tiles = with_tiles(full, base, (frame.picture for frame in frames), whole)
        ranges = (chosen.learn, chosen.tune, chosen.measure)
        parts = {
            name: Parts(*(take(block, np.array(one)) for one in ranges))
            for name, block in (("whole frames", whole), ("with tiles", tiles))
        }
        models = {"before": base}
        for name, own in parts.items():
            directory = chosen.work / key(build.fingerprint(own.learn))
            models[f"fine-tuned, {name}"], _ = fine_tune.fine_tune(
                base, own.learn, own.tune, directory, progress, base.path.stem, chosen.epochs
            )
    floats = models["fine-tuned, whole frames"]
    small = models["the former in INT8"] = int8_of(floats, parts["whole frames"].learn)
    return {
        "objects": [sum(map(len, own.measure.reference)) for own in parts.values()],
        "f1": {
            name: [round(f1(model, own)["measured"], 4) for own in parts.values()] for name, model in models.items()
        },
        "ms": [milliseconds(floats), milliseconds(small)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_footage(parser)
    parser.add_argument("--base", type=Path, required=True, metavar="FILE.onnx", help="detector to fine-tune")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    try:
        result = measure(chosen)
    except UserError as error:
        exit.say(_PROGRAM, str(error))
        sys.exit(2)
    print(json.dumps(result) if chosen.json else as_text(result))


def as_text(result: dict[str, Any]) -> str:
    """The result as a table of at most 80 columns."""
    lines = [f"{'F1 against the full model':<30}{'whole frames':>15}{'with tiles':>15}"]
    lines += [f"{name:<30}{whole:>15.3f}{tiles:>15.3f}" for name, (whole, tiles) in result["f1"].items()]
    lines.append("objects: {} and {}".format(*result["objects"]))
    return "\n".join([*lines, "a run: {:.2f} ms in float32, {:.2f} ms in INT8".format(*result["ms"])])


if __name__ == "__main__":
    main()

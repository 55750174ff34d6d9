"""What a device does for each frame of a detector beside running models: motion, tracks and risks.

    python -m benchmarks.scene_cost [--frames 300] [--json]

Textured squares move over a textured background at 768x576; a simulated detector finds all of them, and replies come
two frames late. CPU time of one thread, milliseconds a frame, median and 95th percentile: `motion` is the grey picture,
the changed cells and the signature; `cascade` is all of the cascade, optical flow inside boxes included.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import cv2
import numpy as np

from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.build_cascade import build_scene_cascade
from cachenet.shared.cascade.detect.detections import Detections, checked
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.cascade.detect.types import LocalDetector, SceneFrame, SceneMiss, SceneReply
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.flow import MotionDetector
from cachenet.shared.media.signature import sign

#: Width and height of the pictures, pixels: those of vtest.avi.
_SIZE = (768, 576)
#: Side of a square, pixels.
_SIDE = 48
#: Frames from a question to its reply.
_DELAY = 2
#: First frames that are not measured, while tracks begin.
_FIRST = 20


class Squares:
    """A video of ``count`` squares that move by ``speed`` pixels a frame."""

    def __init__(self, count: int, speed: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._background = cv2.GaussianBlur(rng.integers(60, 200, (*_SIZE[::-1], 3), np.uint8), (0, 0), 2)
        self._square = rng.integers(0, 255, (_SIDE, _SIDE, 3), np.uint8)
        # A grid of places, so that squares do not overlap.
        columns = np.linspace(40, _SIZE[0] - _SIDE - 40, 5)
        rows = np.linspace(40, _SIZE[1] - _SIDE - 40, 4)
        places = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
        self._places = places[rng.permutation(len(places))[:count]]
        self._speed = speed

    def frame(self, index: int) -> tuple[Picture, Detections]:
        """The picture and its objects."""
        picture = self._background.copy()
        shift = 25 * np.sin(index * self._speed / 25)
        corners = (self._places + np.array([shift, 0.0])).round().astype(int)
        for left, top in corners.tolist():
            picture[top : top + _SIDE, left : left + _SIDE] = self._square
        boxes = np.concatenate([corners, corners + _SIDE], 1) / np.tile(_SIZE, 2)
        return picture, checked(boxes, np.zeros(len(boxes)), np.full(len(boxes), 0.8), classes=1)


def measure(count: int, speed: float, frames: int) -> dict[str, float]:
    """CPU time of the parts for a scene of ``count`` squares, milliseconds."""
    squares, motion = Squares(count, speed), MotionDetector()
    found: list[Detections] = []
    manifest = Bundle(zoo.find("campus")).manifest
    base = LocalDetector("base", lambda index: found[index])
    cascade = build_scene_cascade(SceneSpec(1, "full", manifest.scene_priors), base)
    parts: dict[str, list[float]] = {"motion": [], "cascade": []}
    late: list[int] = []
    for index in range(frames):
        picture, objects = squares.frame(index)
        found.append(objects)
        begun = time.thread_time()
        moved, flow = motion.update(picture)
        frame = SceneFrame(index, index, sign(picture), moved, flow)
        prepared = time.thread_time()
        if late and late[0] <= index - _DELAY:
            asked = late.pop(0)
            cascade.on_late_reply(SceneReply(asked, found[asked]), index / 10)
        step = cascade.lookup(frame, index / 10)
        cascade.complete(step, None, index / 10)
        parts["cascade"].append(1000 * (time.thread_time() - prepared))
        parts["motion"].append(1000 * (prepared - begun))
        if isinstance(step, SceneMiss):
            late.append(index)
    times = {name: np.array(values[_FIRST:]) for name, values in parts.items()}
    times["all"] = times["motion"] + times["cascade"]
    return {
        f"{name}_{what}": round(float(np.percentile(own, share)), 3)
        for name, own in times.items()
        for what, share in (("median", 50), ("p95", 95))
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="frames of each scene (default: 300)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.frames <= _FIRST:
        parser.error(f"--frames {arguments.frames}: more than {_FIRST} are needed")
    cv2.setNumThreads(1)
    scenes: dict[str, tuple[int, float]] = {
        "6 that move": (6, 2.0),
        "20 that move": (20, 2.0),
        "20 that stand": (20, 0.0),
        "none": (0, 0.0),
    }
    found: dict[str, Any] = {name: measure(*scene, arguments.frames) for name, scene in scenes.items()}
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'objects':<14} {'motion':>14} {'cascade':>14} {'all':>14}   ms: median, p95")
    for name, row in found.items():
        cells = [f"{row[f'{part}_median']:.2f} {row[f'{part}_p95']:.2f}" for part in ("motion", "cascade", "all")]
        print(f"{name:<14} " + " ".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()

"""Answers of shipped models to shipped frames, written to a file. This file alone runs on each processor.

    python answers.py ANSWERS FRAMES CLIP

It imports only what ``pip install .`` installs. The file ``CLIP`` has the decoded frames of the clip that all
processors use: the first one makes it, because FFmpeg's colours differ between processors. The full models see a
twentieth of the frames: emulated, one picture takes seconds.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from cachenet.edge_agent.updates.model_loading import answerer, open_model
from cachenet.models.data import sample
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.golden_frames import objects
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.video import Video

#: Models of each bundle: the first two of a classifier are INT8, all others compute in float.
MODELS = {"cifar10": ("base", "general-1in50.1", "full"), "campus": ("base", "full")}
#: Frames of which a full model sees one.
_FULL_SEES_ONE_OF = 20


def decode(count: int) -> list[Picture]:
    """The first frames of the shipped clip, ``(height, width, 3)`` uint8 BGR."""
    clip = Video(zoo.find("campus").parent / "campus-clip/campus.mp4").frames()
    return [frame.picture for frame in itertools.islice(clip, count)]


def main() -> None:
    file, count, shared = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    decoded = decode(count)
    if not shared.exists():
        np.save(shared, np.stack(decoded))
    clip = list(np.load(shared))
    images = [np.ascontiguousarray(image[:, :, ::-1]) for image in sample.load().images[:count]]
    answers: dict[str, list[object]] = {
        "cifar10 frames": [image.ravel().tolist() for image in images],
        "campus frames": [int(np.abs(own.astype(int) - other).max()) for own, other in zip(decoded, clip, strict=True)],
    }
    for (name, models), pictures in zip(MODELS.items(), (images, clip), strict=True):
        bundle = Bundle(zoo.find(name))
        for model in models:
            spec = bundle.manifest.models[model].input
            answer = answerer(open_model(bundle.manifest, model, bundle.find, "cpu", 1), spec)
            used = pictures[:: _FULL_SEES_ONE_OF if model == "full" else 1]
            begun = time.process_time()
            found = [answer(picture) for picture in used]
            took = (time.process_time() - begun) / len(used)
            print(f"  {name} {model}: {len(used)} frames, {1000 * took:.1f} ms of processor time each", flush=True)
            answers[f"{name} {model}"] = [
                objects(one) if isinstance(one, Detections) else one[0].astype(float).tolist() for one in found
            ]
    file.write_bytes(msgspec.msgpack.encode(answers))


if __name__ == "__main__":
    main()

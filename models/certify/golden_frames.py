"""Golden frames of a bundle: some of its pictures, with what each of its models gives for them on the build machine.

Devices test a model on them before they use it (``edge_agent.updates.probe``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from cachenet.models.data.cifar10 import Images
from cachenet.shared.bundle import golden_frames
from cachenet.shared.bundle.manifest import Golden, Manifest, digest
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture, crop, encode, preprocessor
from cachenet.shared.media.pictures import decode

FILE: Literal["golden.msgpack"] = "golden.msgpack"
#: Golden frames of a bundle.
COUNT = 8


def choose(images: Images) -> list[Picture]:
    """Golden frames, BGR, evenly spaced in ``images`` ``(n, height, width, 3)`` uint8 RGB."""
    rows = np.unique(np.linspace(0, len(images) - 1, COUNT).round().astype(int))
    return [np.ascontiguousarray(images[row][:, :, ::-1]) for row in rows]


def add_golden_frames(directory: Path, manifest: Manifest, pictures: Sequence[Picture] = ()) -> Manifest:
    """Write golden frames into the bundle under construction in ``directory``.

    Args:
        pictures: The frames, BGR; without any, the frames of the present file are used.

    Returns:
        The manifest with the new file; without golden frames if there is neither a picture nor a file.

    Raises:
        EngineError: A model cannot be run.
        OSError: The file cannot be written.
    """
    path = directory / FILE
    if pictures:
        encoded = tuple(encode(picture)[1] for picture in pictures)
    elif path.exists():
        encoded = golden_frames.read(path.read_bytes()).pictures
    else:
        return msgspec.structs.replace(manifest, golden=None)
    shown = [decode(data) for data in encoded]
    scores, objects = {}, {}
    for name, model in manifest.models.items():
        session, prepare = Session(directory / model.file, "cpu"), preprocessor(model.input)
        if model.decoder is not None:
            detector = Detector(session.run_all, model.input, model.decoder)
            objects[name] = tuple(golden_frames.objects(detector(picture)) for picture in shown)
            continue
        rows = (session.run(prepare(crop(picture, model.input)))[0] for picture in shown)
        scores[name] = tuple(tuple(round(float(score), 5) for score in row) for row in rows)
    data = golden_frames.encode(golden_frames.GoldenFrames(encoded, scores, objects))
    atomic_files.write(path, data)
    return msgspec.structs.replace(manifest, golden=Golden(FILE, len(data), digest(data)))

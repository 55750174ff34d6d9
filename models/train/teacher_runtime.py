"""The full model's voice while it teaches: in INT8 where there is much to say and it says the same in less time.

It only teaches so; what its students say is compared with the full model as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from cachenet.models.build_config import key
from cachenet.models.certify import recorded
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.export import quantise
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, preprocessor

#: From so many looks on it pays; how often it must still say the same, and the most of the time that it may take.
_MANY, _THE_SAME, _FASTER = 20_000, 0.97, 0.9
#: Frames that ranges are taken from.
_CALIBRATING = 500


@dataclass(frozen=True)
class TeacherRuntime:
    """``name`` tells voices apart: what one has taught must not be mixed with what another has."""

    session: Session
    name: str


def find(full: Path, spec: Input, tune: LabelledFrames, looks: int, work: Path) -> TeacherRuntime:
    """The voice to say ``looks`` things with, tried on ``tune``. What was decided is kept in ``work``, for a machine
    does not measure the same twice. Raises ``OSError`` if it cannot be."""
    threads = torch.get_num_threads()
    if looks >= _MANY:
        path = work / f"voice-{key(digest(tune.scores.tobytes()))}.onnx"
        if not path.exists():
            atomic_files.write(path, _quick(full, spec, tune, threads, work))
        if data := path.read_bytes():
            return TeacherRuntime(Session(path, "cpu", threads), f"int8-{digest(data)[:16]}")
    return TeacherRuntime(Session(full, "cpu", threads), "as-it-is")


def calibrating(spec: Input, tune: LabelledFrames) -> npt.NDArray[np.float32]:
    """Some frames as models of ``spec`` take them, to find ranges with."""
    prepare = preprocessor(spec)
    pictures = recorded.as_pictures(tune.images[:_CALIBRATING])
    return np.concatenate([prepare(recorded.view(picture, spec, tune.seen)) for picture in pictures])


def _quick(full: Path, spec: Input, tune: LabelledFrames, threads: int, work: Path) -> bytes:
    """The quicker model; empty where there is none that says the same."""
    images, trial = calibrating(spec, tune), work / "voice.trial"
    try:
        data: bytes = quantise.int8(onnx.load(str(full)), images).SerializeToString(deterministic=True)
        atomic_files.write(trial, data)
        said = recorded.run(Session(trial, "cpu", threads), spec, recorded.as_pictures(tune.images))
        alike = float((said.argmax(1) == tune.answers).mean())
        return data if alike >= _THE_SAME and quantise.compare(full, trial, images[:1]).time <= _FASTER else b""
    except (OSError, MemoryError):
        raise
    except Exception:  # a stranger's graph, of which the quantiser makes what it can: the model itself will do
        return b""
    finally:
        trial.unlink(missing_ok=True)

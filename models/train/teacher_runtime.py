"""Runtime of the full model as a teacher: in INT8 where many outputs are needed and INT8 agrees and is faster.

INT8 serves distillation only. Students are evaluated against the full model as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from cachenet.models.build_config import key
from cachenet.models.certify import traces
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.export import quantise
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, preprocessor

#: Minimum number of outputs for which INT8 is tried.
_MIN_OUTPUTS = 20_000
#: Minimum share of frames on which INT8 and the full model agree.
_MIN_AGREEMENT = 0.97
#: Maximum time of INT8 as a share of the full model's.
_MAX_TIME = 0.9
#: Frames for INT8 calibration.
_CALIBRATION = 500


@dataclass(frozen=True)
class TeacherRuntime:
    """A session of the full model; ``name`` keeps the outputs of different runtimes apart."""

    session: Session
    name: str


def choose_runtime(full: Path, spec: Input, tune: LabelledFrames, outputs: int, work: Path) -> TeacherRuntime:
    """Choose the runtime, or load the earlier choice, because measured times vary.

    Args:
        tune: Frames to calibrate and compare on.
        outputs: Number of outputs that will be needed.

    Raises:
        OSError: ``work`` cannot be written.
    """
    threads = torch.get_num_threads()
    if outputs >= _MIN_OUTPUTS:
        path = work / f"teacher-int8-{key(digest(tune.scores.tobytes()))}.onnx"
        if not path.exists():
            atomic_files.write(path, _int8(full, spec, tune, threads, work))
        if data := path.read_bytes():
            return TeacherRuntime(Session(path, "cpu", threads), f"int8-{digest(data)[:16]}")
    return TeacherRuntime(Session(full, "cpu", threads), "as-it-is")


def calibration_inputs(spec: Input, tune: LabelledFrames) -> npt.NDArray[np.float32]:
    """Return frames for INT8 calibration as inputs of models of ``spec`` ``(n, channels, height, width)``."""
    prepare = preprocessor(spec)
    pictures = traces.as_pictures(tune.images[:_CALIBRATION])
    return np.concatenate([prepare(traces.view(picture, spec, tune.full_input)) for picture in pictures])


def _int8(full: Path, spec: Input, tune: LabelledFrames, threads: int, work: Path) -> bytes:
    """Return the INT8 model; empty if it does not agree, is not faster or cannot be made."""
    images, trial = calibration_inputs(spec, tune), work / "teacher.trial"
    try:
        data: bytes = quantise.int8(onnx.load(str(full)), images).SerializeToString(deterministic=True)
        atomic_files.write(trial, data)
        logits = traces.run_model(Session(trial, "cpu", threads), spec, traces.as_pictures(tune.images))
        agreement = float((logits.argmax(1) == tune.full_labels).mean())
        suits = agreement >= _MIN_AGREEMENT and quantise.compare(full, trial, images[:1]).time <= _MAX_TIME
        return data if suits else b""
    except (OSError, MemoryError):
        raise
    except Exception:  # the quantiser may fail in any way on a user's graph
        return b""
    finally:
        trial.unlink(missing_ok=True)

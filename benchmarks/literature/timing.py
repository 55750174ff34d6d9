"""Time of models on one thread, compared in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from cachenet.shared.inference.engine import session_options

#: Runs of a model.
RUNS = 30


def seconds(models: Sequence[ModelProto], side: int = 32, runs: int = RUNS) -> list[float]:
    """Time of a run of each model: the thread's processor time, mean of the quicker half of the runs.

    The models take turns. Processor time leaves out the time of other processes.

    Args:
        side: Side of the input of a model that takes any size, pixels.
    """
    sessions = [
        ort.InferenceSession(one.SerializeToString(), session_options(1), providers=["CPUExecutionProvider"])
        for one in models
    ]
    rng, feeds = np.random.default_rng(0), []
    for session in sessions:
        [taken] = session.get_inputs()
        shape = [
            1,
            *(
                one if isinstance(one, int) else known
                for one, known in zip(taken.shape[1:], (3, side, side), strict=True)
            ),
        ]
        feeds.append({taken.name: rng.random(shape, np.float32)})
    took: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs + 1):
        for session, feed, own in zip(sessions, feeds, took, strict=True):
            started = time.thread_time()
            session.run(None, feed)
            own.append(time.thread_time() - started)
    return [quicker_half(own[1:]) for own in took]


def quicker_half(times: Sequence[object]) -> Any:
    """Mean of the quicker half of the runs, the first axis: other processes only add to a time."""
    ordered = np.sort(np.array(times, np.float64), axis=0)
    return ordered[: max(1, len(ordered) // 2)].mean(0).tolist()

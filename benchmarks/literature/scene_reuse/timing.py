"""Time from some seconds of footage to a chosen submodel, against the size of the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.literature.scene_reuse.key import Embedder, SceneKey, distances
from benchmarks.real_tasks import INPUT
from cachenet.models.certify.traces import run_model
from cachenet.shared.inference.engine import Session

#: Sizes of the store.
_SIZES = (10, 100, 1000, 10000)
#: Frames of the footage, and audited frames of them.
_FOOTAGE, _AUDITED = 30, 10
#: Repetitions, interleaved.
_RUNS = 7


def measure(files: Sequence[Path], smoke: bool) -> dict[str, Any]:
    """Medians, milliseconds: of the key, of the nearest of stores of several sizes, of loading a submodel, and of
    its answers to the audited frames.

    Args:
        files: Submodels of the store.
    """
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (_FOOTAGE, INPUT.side, INPUT.side, 3)).astype(np.uint8)
    embed = Embedder()
    key = SceneKey(embed(pictures), np.full(3, 1 / 3))
    width = len(key.background)
    parts: dict[str, Callable[[], object]] = {"key": lambda: embed(pictures)}
    for size in _SIZES[: 2 if smoke else None]:
        others = [SceneKey(one, key.mix) for one in rng.standard_normal((size, width))]
        parts[f"nearest_of_{size}"] = lambda others=others: int(distances(key, others, 0.0).argmin())  # type: ignore[misc]
    audited = list(pictures[:_AUDITED])
    parts["load"] = lambda: Session(files[0], "cpu")
    session = Session(files[0], "cpu")
    parts["audit"] = lambda: run_model(session, INPUT, audited)
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(_RUNS):
        for name, part in parts.items():
            began = time.perf_counter()
            part()
            times[name].append(1000 * (time.perf_counter() - began))
    found = {name: float(np.median(own)) for name, own in times.items()}
    by_size = {
        str(size): {
            "key_ms": round(found["key"] + found[f"nearest_of_{size}"], 1),
            "audits_ms": round(size * (found["audit"] + found["load"]), 1),
            "audits_ms_loaded": round(size * found["audit"], 1),
        }
        for size in _SIZES
        if f"nearest_of_{size}" in found
    }
    return {"key_ms": round(found["key"], 1), "audited_frames": _AUDITED, "by_store_size": by_size}

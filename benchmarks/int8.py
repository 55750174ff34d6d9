"""What INT8 sums that may overflow cost, and what exact ones do, on this processor.

    python -m benchmarks.int8 --model base general-1in50.1

Each model of a bundle says of the same held-out images what it makes of them in three ways: every operator in floats;
in INT8 as ONNX Runtime sums by default, which on x86 processors without VNNI is quick and overflows; and exactly, which
is how the agent and the server run it. ``agrees``: share of images with the label that floats lead to; ``right``: with
the true one; ``ms``: median of single runs on one core, by turns in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from cachenet.models.certify.recorded import as_pictures
from cachenet.models.data import cifar10
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import EXACT, Batch, Logits
from cachenet.shared.inference.image import crop, preprocessor

_WAYS = {"floats": (False, False), "default": (True, False), "exact": (True, True)}


def _runner(path: Path, optimised: bool, exact: bool) -> Callable[[Batch], Logits]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimised:  # nothing is fused, so what is to be computed in INT8 is computed in floats
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if exact:
        options.add_session_config_entry(*EXACT)
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(batch: Batch) -> Logits:
        logits: Logits = session.run(None, {name: batch})[0]
        return logits

    return run


def measure(bundle: Bundle, name: str, images: int, runs: int) -> dict[str, dict[str, float]]:
    """The figures of a model, by the way that it was run."""
    held, spec = cifar10.load().held, bundle.manifest.models[name].input
    rows = np.linspace(0, len(held) - 1, images).astype(int)
    prepare = preprocessor(spec)
    batch = np.concatenate([prepare(crop(picture, spec)) for picture in as_pictures(held.images[rows])])
    ways = {way: _runner(bundle.path(name), *how) for way, how in _WAYS.items()}
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(runs):
        for way, run in ways.items():
            one = batch[number % images][None]
            begun = time.perf_counter()
            run(one)
            took[way].append(time.perf_counter() - begun)
    said = {way: run(batch).argmax(1) for way, run in ways.items()}
    return {
        way: {
            "agrees": float((own == said["floats"]).mean()),
            "right": float((own == held.labels[rows]).mean()),
            "ms": 1e3 * median(took[way]),
        }
        for way, own in said.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--model", nargs="+", default=["base", "general-1in50.1"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=300)
    asked = parser.parse_args()
    bundle = Bundle(asked.bundle)
    print(json.dumps({name: measure(bundle, name, asked.images, asked.runs) for name in asked.model}))


if __name__ == "__main__":
    main()

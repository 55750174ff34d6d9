"""Cost of a decision: signature, decision and learning of a 640x480 frame, against one run of a base model of 0.08 M
parameters (ResNet-8 of 16, 32 and 64 channels with random weights).

    python -m benchmarks.decision_cost --stream camera

Model outputs are recorded, so only the decision core is timed. Requests and audits are answered at once, so the mean
includes the learning from replies. Decisions and model runs alternate in one process. The stream repeats; the measure
is the mean over its frames of the median over the rounds, which excludes other load of the machine. ``grown_bytes``:
memory that Python has allocated and not freed over the last round of the growth test, bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import torch

from cachenet.models.certify import traces
from cachenet.models.certify.traces import RecordedStream
from cachenet.models.data import sample, streams
from cachenet.models.export.export import export
from cachenet.models.train.networks import ResNet, Shape
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.audits import MIN_AUDIT_RATE
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.engine import Session
from cachenet.shared.media.signature import sign

_SMALL = Shape(widths=(16, 32, 64), blocks=(1, 1, 1))
#: Frames of the stream.
_FRAMES = 300
#: Rounds over the stream; the first one warms up.
_ROUNDS = 8


def measure(directory: Path, name: streams.StreamName, seed: int) -> dict[str, object]:
    """The measures as the command prints them."""
    cv2.setNumThreads(1)  # as on a device
    bundle = Bundle(directory)
    family = traces.family_of(bundle.manifest)
    images = sample.load()
    plan = streams.schedule(name, images.labels, seed, _FRAMES)
    models = traces.open_models(bundle)
    stream = traces.record_streams([plan], images, models)[0]
    render = streams.renderer(plan, images.images)
    pictures = [render(index) for index in range(_FRAMES)]

    torch.manual_seed(seed)
    network = ResNet(_SMALL).eval()
    with tempfile.TemporaryDirectory() as scratch:
        export(network, Path(scratch) / "model.onnx", {})
        session = Session(Path(scratch) / "model.onnx", "cpu")
    image = np.zeros((1, 3, 32, 32), np.float32)

    cascade = traces.device_cascade(stream, family, audit_floor=MIN_AUDIT_RATE)
    runs, decisions = [], []
    for count in range(_ROUNDS * _FRAMES):
        begun = time.perf_counter()
        session.run(image)
        runs.append(time.perf_counter() - begun)
        picture = pictures[count % _FRAMES].copy()  # as fresh in the cache as from a camera's driver
        begun = time.perf_counter()
        _decide(cascade, stream, family.full, picture, count)
        decisions.append(time.perf_counter() - begun)
    warm = np.reshape(decisions, (_ROUNDS, _FRAMES))[1:]
    run_us, decision_us = 1e6 * float(np.median(runs[_FRAMES:])), 1e6 * float(np.median(warm, axis=0).mean())
    return {
        "bundle": bundle.manifest.name,
        "stream": name,
        "seed": seed,
        "parameters": network.parameters_count(),
        "run_us": run_us,
        "decision_us": decision_us,
        "ratio": decision_us / run_us,
        "hits": cascade.tally.hits,
        "cloud": cascade.tally.cloud,
        "grown_bytes": _growth(cascade, stream, family.full, pictures),
    }


def _decide(cascade: Cascade, stream: RecordedStream, full: str, picture: np.ndarray, count: int) -> None:
    """Decide one frame, from its picture to its answer. The stream repeats."""
    place = count % _FRAMES
    step = cascade.lookup(Frame(count, place, sign(picture)), 0.0)
    reply = Reply(count, stream.logits[full][place])
    answer = cascade.complete(step, reply if isinstance(step, Miss) else None, 0.0)
    if answer.audit:
        cascade.on_audit_reply(reply, 0.0)


def _growth(cascade: Cascade, stream: RecordedStream, full: str, pictures: list[np.ndarray]) -> int:
    tracemalloc.start()
    count = _ROUNDS * _FRAMES
    sizes = []
    for _ in range(6):
        for picture in pictures:
            _decide(cascade, stream, full, picture, count)
            count += 1
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return sizes[-1] - sizes[-2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--stream", choices=streams.STREAM_NAMES, default="camera")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(json.dumps(measure(chosen.bundle, chosen.stream, chosen.seed)))


if __name__ == "__main__":
    main()

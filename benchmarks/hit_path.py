"""What a hit costs beside its model: the agent's whole path from picture to written answer against a bare ONNX
Runtime call with the same preprocessing, on 640x480 frames.

    python -m benchmarks.hit_path --bundle models/zoo/cifar10

Frames alternate between the two within one run, so that whatever else the machine does falls on both; medians are
compared. Every frame is another picture, so the frame cache is searched in vain each time, and the risk budget is 90 %,
so that the base model's answer is a hit as a rule. ``frames_ratio`` is the same for a picture that the full model has
answered before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs.report import Sink
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import Files, Shot
from cachenet.models.data import sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture, crop, preprocessor
from cachenet.shared.media.signature import sign

_PICTURES = 100


def measure(directory: Path, frames: int, seed: int) -> dict[str, object]:
    """The figures as the command prints them; milliseconds and ratios of medians."""
    bundle = Bundle(directory)
    name = bundle.manifest.only("base")
    model = bundle.manifest.models[name]
    session, preprocess = Session(bundle.path(name), "cpu"), preprocessor(model.input)

    settings = Settings(levels=("frames", "submodels", "base"), max_disagreement=0.9)
    agent = Agent(settings, [Files([], None)], None, None, bundle)
    (camera,) = agent.cameras
    agent.loader.start()
    camera.wait_for_bundle()
    assert camera.cascade is not None
    sink = Sink("/dev/null")
    pictures = _pictures(seed)
    count = iter(range(1 << 30))

    def bare(picture: Picture) -> None:
        session.run(preprocess(crop(picture, model.input)))

    def ours(picture: Picture) -> None:
        camera.answer(next(count), Shot(picture), sink)

    for picture in pictures:
        bare(picture)
        ours(picture)
    times = _alternate([bare, ours], pictures, frames)
    before = dict(camera.tally.hits)
    estimator = camera.cascade.estimator
    estimator.keep(estimator.begin(Frame(next(count), None, sign(pictures[0]))), 0)
    still = _alternate([ours], pictures[:1], frames)
    return {
        "bundle": bundle.manifest.name,
        "model": name,
        "frames": frames,
        "seed": seed,
        "bare_ms": times[0],
        "hit_ms": times[1],
        "ratio": times[1] / times[0],
        "frames_hit_ms": still[0],
        "frames_ratio": still[0] / times[0],
        "frames_hits": camera.tally.hits["frames"] - before["frames"],
        "model_hits": before["base"],
    }


def _alternate(ways: list[Callable[[Picture], None]], pictures: list[Picture], frames: int) -> list[float]:
    """Median milliseconds of each way."""
    times: list[list[float]] = [[] for _ in ways]
    for index in range(frames):
        for way, spent in zip(ways, times, strict=True):
            begun = time.perf_counter()
            way(pictures[index % len(pictures)])
            spent.append((time.perf_counter() - begun) * 1000)
    return [float(np.median(spent)) for spent in times]


def _pictures(seed: int) -> list[Picture]:
    """Frames of a camera stream that follow a cut, so that no two are alike."""
    split = sample.load()
    plan = streams.plan("camera", split.labels, seed, 60 * _PICTURES)
    render = streams.renderer(plan, split.images)
    return [render(index) for index in np.flatnonzero(plan.cuts())[:_PICTURES].tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(json.dumps(measure(asked.bundle, asked.frames, asked.seed)))


if __name__ == "__main__":
    main()

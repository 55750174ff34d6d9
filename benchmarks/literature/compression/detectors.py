"""Detectors in INT8 against themselves in float32: time, and agreement on real clips.

P. Chen et al., "AQD: Towards Accurate Quantized Object Detection" (arXiv 2007.06919) report that quantised detectors
can equal those in floating point, after training with quantisation. Here the ranges come from unlabelled frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from benchmarks.literature.clip import video
from benchmarks.literature.row import Inputs
from benchmarks.literature.timing import RUNS, seconds
from benchmarks.real_tasks import ONE, WALKERS
from cachenet.models.export import quantise
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.models.export.graph_edit import ending_in
from cachenet.models.export.quantise import Tensor
from cachenet.shared.cascade.detect.detections import Detections, counts, match, pooled_f1
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.image import Picture, crop, preprocessor

NAMES = ("nanodet_plus_m_416", "yolox_nano_416", "fastestdet_352", "person_nano_192")
#: Frames of each half of a clip: ranges come from the first half, and what is measured from the second.
_FRAMES = 40
#: Least score of the detections that average precision is computed from.
_LEAST = 0.05
#: Frames of a block of the bootstrap: about a second, whose frames are alike.
_BLOCK = 5
#: Resamples.
_RESAMPLES = 300
#: Least step of the quantiser, as a multiple of the median of a map's absolute values other than 0, at which a
#: convolution stays in floating point.
_WIDE = 0.5
#: Ranges and medians of maps come from every fourth image.
_EVERY = 4


def frames(path: Path, smoke: bool) -> tuple[list[Picture], list[Picture]]:
    """``_FRAMES`` frames of each half of a clip, evenly spaced; some of its start for a smoke run."""
    source = cv2.VideoCapture(str(path))
    total, count = (80, 4) if smoke else (int(source.get(cv2.CAP_PROP_FRAME_COUNT)), _FRAMES)
    first = np.linspace(0, total // 2 - 1, count).astype(int).tolist()
    second = np.linspace(total // 2 + 20, total - 2, count).astype(int).tolist()
    wanted: set[int] = {*first, *second}
    found: dict[int, Picture] = {}
    for at in range(max(wanted) + 1):
        if not source.grab():
            break
        if at in wanted:
            found[at] = np.asarray(source.retrieve()[1], np.uint8)
    return [found[at] for at in first if at in found], [found[at] for at in second if at in found]


def measure(name: str, inputs: Inputs) -> dict[str, Any]:
    """Time ratio, and average precision and F1 of the INT8 variants against the detector in float32.

    Raises ``UserError`` if a clip is missing.
    """
    clips = [video(one, inputs.data) for one in (WALKERS, ONE)]
    model = load_detector(inputs.data / "detectors" / f"{name}.onnx")
    clip_frames = [frames(path, inputs.smoke) for path in clips]
    prepare = preprocessor(model.input)
    images = np.concatenate([prepare(crop(one, model.input)) for early, _ in clip_frames for one in early])
    variants = {variant: make(model.graph, images) for variant, make in VARIANTS.items()}
    plain, *others = seconds([model.graph, *variants.values()], runs=2 if inputs.smoke else RUNS)
    reference = [run(model, late) for _, late in clip_frames]
    rows: dict[str, Any] = {}
    for (variant, graph), took in zip(variants.items(), others, strict=True):
        own = [run(replace(model, graph=graph), late) for _, late in clip_frames]
        rows[variant] = {"faster": plain / took} | _agreement(own, reference, model.decoder.score)
    return rows


def wide(model: ModelProto, images: Tensor) -> list[str]:
    """Names of the convolutions with an input or output whose range is wide: one step of 8 bits is over ``_WIDE``.

    Most of what such a map says is lost in INT8, because few large values set its range.

    Args:
        images: Prepared pictures ``(n, 3, h, w)``.
    """
    graph = quantise.folded(model)
    image_name = graph.graph.input[0].name
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv" and node.name]
    names = {name for node in convolutions for name in (node.input[0], node.output[0])} - {image_name}
    network = ModelPart(ending_in(graph, *sorted(names)).SerializeToString(), "detector", "cpu")
    chosen, measured = images[::_EVERY], []  # for each image and map: least value, largest, median
    for image in chosen:
        maps = network.run({image_name: image[None]}).values()
        measured.append([(one.min(), one.max(), np.median(np.abs(one[one != 0]))) for one in maps])
    low, high, median = np.moveaxis(np.array(measured), 2, 0)
    wide_maps = (high.max(0) - low.min(0)) / 255 > _WIDE * median.mean(0)
    broad = {name for name, over in zip(network.gives, wide_maps, strict=True) if over}
    return [node.name for node in convolutions if broad & {node.input[0], node.output[0]}]


#: Forms of a detector in INT8.
VARIANTS: dict[str, Callable[[ModelProto, Tensor], ModelProto]] = {
    "all operators": quantise.int8,
    "convolutions": lambda graph, images: quantise.int8(graph, images, ("Conv",)),
    "convolutions of narrow range": lambda graph, images: quantise.int8(graph, images, ("Conv",), wide(graph, images)),
}


def run(model: DetectorModel, pictures: Sequence[Picture]) -> list[Detections]:
    """Detections of each picture from a score of ``_LEAST`` on."""
    detector = replace(model, decoder=msgspec.structs.replace(model.decoder, score=_LEAST)).detector(1)
    return [detector(one) for one in pictures]


def _agreement(
    found: Sequence[Sequence[Detections]], reference: Sequence[Sequence[Detections]], score: float
) -> dict[str, Any]:
    """Average precision and F1 over all clips, each with its 95 % interval."""
    flat = [one for clip in found for one in clip]
    known = [one.take(one.scores >= score) for clip in reference for one in clip]
    counted = np.array([counts(one.take(one.scores >= score), other) for one, other in zip(flat, known, strict=True)])
    blocks = np.array_split(np.arange(len(flat)), max(1, len(flat) // _BLOCK))
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(blocks), (_RESAMPLES, len(blocks)))
    draws = [np.concatenate([blocks[at] for at in one]) for one in chosen]
    scored = [_scored(one, other) for one, other in zip(flat, known, strict=True)]
    every = np.arange(len(flat))

    def ap(rows: npt.NDArray[np.int64]) -> float:
        return average_precision(
            np.concatenate([scored[at] for at in rows]).reshape(-1, 2), sum(len(known[at]) for at in rows)
        )

    return {
        "objects": sum(map(len, known)),
        "ap50": ap(every),
        "ap50_interval": np.quantile([ap(rows) for rows in draws], (0.025, 0.975)).tolist(),
        "f1": pooled_f1(counted),
        "f1_interval": np.quantile([pooled_f1(counted[rows]) for rows in draws], (0.025, 0.975)).tolist(),
    }


def _scored(found: Detections, known: Detections) -> npt.NDArray[np.float64]:
    """Score of each detection, and 1 where it matches an object, else 0 ``(n, 2)``."""
    right = np.zeros(len(found))
    for row, _ in match(found.boxes, found.labels, known.boxes, known.labels):
        right[row] = 1
    return np.stack([found.scores, right], 1)


def average_precision(scored: npt.NDArray[np.float64], objects: int) -> float:
    """Area under the curve of precision over recall, all labels together (PASCAL VOC 2010).

    Args:
        scored: Score of each detection, and 1 where it is right ``(n, 2)``.
        objects: Number of objects.
    """
    if not objects:
        return 1.0
    right = scored[np.argsort(-scored[:, 0], kind="stable"), 1]
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float((precision * right).sum() / objects)

"""Inspects the detections of a full model in a user's frames, before a build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from cachenet.models.data.frames import Frames
from cachenet.models.export.detector import DetectorModel
from cachenet.models.export.preprocessing import DETECTOR_PRESETS
from cachenet.models.report.inspection import describe, spread
from cachenet.models.train.label import NothingRead
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.command import atomic_files
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.image import Picture

Finding = int | float | str | dict[str, float] | list[str]
#: Frames that are drawn.
_DRAWN = 9
#: Boxes for each frame below which other preprocessing is tried.
_FEW = 0.05


@dataclass(frozen=True)
class Sample:
    """A frame with its detections."""

    title: str
    picture: Picture
    found: Detections


@dataclass(frozen=True)
class Inspection:
    """Findings by name, and some of the frames, evenly spaced."""

    findings: dict[str, Finding]
    samples: list[Sample]


def inspect(
    model: DetectorModel, frames: Frames, threads: int, advance: Callable[[int], object] = lambda _: None
) -> Inspection:
    """Run a detector over all frames.

    Args:
        threads: Threads of ONNX Runtime.
        advance: Called with the number of finished frames.

    Raises:
        NothingRead: No file can be read.
        UserError: The detector does not run.
    """
    detect = model.detector(threads)
    samples: list[Sample] = []
    step, count, empty, scores = 1, 0, 0, 0.0
    boxes = np.zeros(len(model.labels), np.int64)
    for count, frame in enumerate(frames, 1):
        found = detect(frame.picture)
        empty, scores = empty + (not len(found)), scores + float(found.scores.sum())
        boxes += np.bincount(found.labels, minlength=len(boxes))
        if (count - 1) % step == 0:
            title = f"{frames.name(frame.file, frame.number)}: {len(found)} boxes"
            samples.append(Sample(title, frame.picture, found))
        if len(samples) > 2 * _DRAWN:
            samples, step = samples[::2], 2 * step
        advance(count)
    if not count:
        path, why = next(iter(frames.broken.items()), (frames.files[0], "it is empty"))
        raise NothingRead(f"no file can be read; the first, {shown(path)}: {why}")
    total = int(boxes.sum())
    findings: dict[str, Finding] = {
        "takes": describe(model.input),
        "input": model.native.description,
        "decoder": model.decoder.kind,
        "score": model.decoder.score,
        "overlap": model.decoder.overlap,
        "classes": len(model.labels),
        "files": len(frames.files),
        "skipped": len(frames.broken),
        "damaged": frames.damaged,
        "frames": count,
        "boxes_per_frame": total / count,
        "frames_without_boxes": empty / count,
        "mean_score": scores / total if total else 0.0,
        "labels": {
            model.labels[label]: float(boxes[label] / count)
            for label in np.argsort(-boxes, kind="stable").tolist()
            if boxes[label]
        },
    }
    samples = [samples[at] for at in spread(len(samples), _DRAWN).tolist()]
    findings["verdict"] = _conclusions(model, total / count, int((boxes > 0).sum()), samples, threads)
    return Inspection(findings, samples)


def _conclusions(model: DetectorModel, rate: float, labels: int, samples: list[Sample], threads: int) -> list[str]:
    """Conclusions from ``rate``, the boxes of a frame on average."""
    if rate >= _FEW:
        return [f"{rate:.2g} boxes in a frame, {labels} of {len(model.labels)} labels. --draw shows whether they fit."]
    text = "Nothing is found in nearly all frames. If they show objects, preprocessing or decoder are wrong."
    if tried := _other_presets(model, samples, threads):
        text += " Try --preprocessing, with the boxes in a frame that each gives: "
        text += ", ".join(f"{name} ({boxes:.2g})" for name, boxes in tried.items()) + "."
    return [text]


def _other_presets(model: DetectorModel, samples: list[Sample], threads: int) -> dict[str, float]:
    """Boxes in a frame on average with each other preprocessing that finds some, by preset, the most first."""
    found = {}
    for name, preset in DETECTOR_PRESETS.items():
        if model.native.is_integer or model.native.channels == 1:
            break  # takes pixels, or grey, as they are
        side, height = model.input.side, model.input.height
        spec = msgspec.structs.replace(preset, side=side, height=height)
        detect = replace(model, input=spec).detector(threads)
        found[name] = float(np.mean([len(detect(sample.picture)) for sample in samples]))
    return {name: boxes for name, boxes in sorted(found.items(), key=lambda pair: -pair[1]) if boxes > _FEW}


def draw(model: DetectorModel, inspection: Inspection, path: Path) -> None:
    """Write a PNG with nine frames and their boxes. Raises ``OSError``."""
    from cachenet.models.report import box_sheet  # matplotlib takes a second to import

    panels = [
        box_sheet.Panel(
            sample.title,
            sample.picture,
            [
                box_sheet.Box(tuple(box), model.labels[label], score)
                for box, label, score in zip(
                    sample.found.boxes.tolist(),
                    sample.found.labels.tolist(),
                    sample.found.scores.tolist(),
                    strict=True,
                )
            ],
        )
        for sample in inspection.samples
    ]
    title = f"{model.path.name}: {model.decoder.kind}, {describe(model.input)}"
    atomic_files.write(path, box_sheet.sheet(title, panels))

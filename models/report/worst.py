"""The frames behind most errors of the model that devices run: stretches of footage, by their share of the errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from cachenet.models.certify import traces
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.data.frames import Frames, is_video
from cachenet.models.detect.agreement import as_pictures
from cachenet.models.detect.footage import Block
from cachenet.models.report import box_sheet, contact_sheet
from cachenet.models.report.detector_report import detector_of, outcome
from cachenet.models.report.tables import Table
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.inference.engine import Session

#: Frames of a stretch: neighbouring frames have the same errors.
LENGTH = 30
#: Stretches that are listed.
_SHOWN = 6
#: Labels that are drawn under a frame.
_LABELS = 3

Errors = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Stretch(NamedTuple):
    """Consecutive frames.

    Attributes:
        first: Row of the first frame.
        last: Row of the last frame.
        errors: Their errors.
        share: Their share of all errors.
        worst: Row of the frame with most errors.
    """

    first: int
    last: int
    errors: float
    share: float
    worst: int


class Worst(NamedTuple):
    """``results``: as ``--json`` prints them; ``sheet``: PNG of each stretch's worst frame; None without errors."""

    results: dict[str, Any]
    sheet: bytes | None


def stretches(errors: Errors, sequences: Rows, weights: Errors | None = None) -> list[Stretch]:
    """The stretches with most errors, at most ``_SHOWN``, the worst first; none without errors.

    Args:
        errors: Number of errors of each frame ``(n,)``.
        sequences: Number of each frame's video or folder, ascending ``(n,)``.
        weights: Which of the frames with equal errors is the worst, the greatest ``(n,)``; None for the first.
    """
    total, found = float(errors.sum()), []
    begins = np.flatnonzero(np.diff(sequences, prepend=-1) != 0).tolist()
    for begin, end in zip(begins, [*begins[1:], len(errors)], strict=True):
        for first in range(begin, end, LENGTH):
            own = errors[first : min(first + LENGTH, end)]
            if own.sum() > 0:
                order = own if weights is None else own + 1e-6 * weights[first : first + len(own)]
                worst = first + int(order.argmax())
                found.append(Stretch(first, first + len(own) - 1, float(own.sum()), float(own.sum()) / total, worst))
    return sorted(found, key=lambda one: -one.errors)[:_SHOWN]


def names(frames: Frames | None, files: Rows | None, rows: Sequence[int]) -> list[str]:
    """Name of the frame in each of ``rows``. ``files``: number of each frame's file; None for unknown."""
    if frames is None or files is None:
        return [f"frame {row}" for row in rows]
    shown = []
    for row in rows:
        path = frames.files[int(files[row])]
        within = row - int(np.searchsorted(files, files[row]))
        shown.append(f"{path.name}, frame {within * frames.frame_step}" if is_video(path) else path.name)
    return shown


def of_classifier(
    bundle: Bundle, part: LabelledFrames, sequences: Rows, frames: Frames | None, files: Rows | None
) -> Worst:
    """The frames behind most errors of the base model: frames to which it gives another label than the full model."""
    manifest, base = bundle.manifest, bundle.manifest.only("base")
    session, spec = Session(bundle.path(base), "cpu", torch.get_num_threads()), manifest.models[base].input
    pictures = traces.as_pictures(part.images)
    own = softmax(traces.run_model(session, spec, pictures, part.full_input), manifest.models[base].temperature)
    wrong = own.argmax(1) != part.full_labels
    chosen = stretches(wrong.astype(np.float64), sequences, own.max(1))
    where = names(frames, files, [one.worst for one in chosen])
    labels = manifest.labels
    details = [
        f"full model {labels[part.full_labels[one.worst]]}, {base} {labels[int(own[one.worst].argmax())]} "
        f"{own[one.worst].max():.0%}"
        for one in chosen
    ]
    panels = [
        contact_sheet.Panel(
            f"{name}: {labels[part.full_labels[one.worst]]}",
            pictures[one.worst],
            [(labels[at], float(own[one.worst][at])) for at in np.argsort(-own[one.worst])[:_LABELS].tolist()],
        )
        for one, name in zip(chosen, where, strict=True)
    ]
    title = f"{manifest.name}: frames behind most errors of {base}; title: the full model's label, bars: {base}"
    sheet = contact_sheet.sheet(title, panels) if panels else None
    return Worst(_results(base, int(wrong.sum()), len(part), chosen, where, details), sheet)


def of_detector(bundle: Bundle, block: Block, frames: Frames, files: Rows | None) -> Worst:
    """The frames behind most errors of the detector that devices run: objects that it misses, and false ones."""
    manifest = bundle.manifest
    device = manifest.better_detector() or manifest.only("base")
    detector = detector_of(bundle, device, torch.get_num_threads())
    found = [detector(picture) for picture in as_pictures(block.pictures)]
    compared = [outcome(*pair) for pair in zip(found, block.reference, strict=True)]
    missed, false = (np.array([len(getattr(one, part)) for one in compared]) for part in ("misses", "false"))
    chosen = stretches((missed + false).astype(np.float64), block.sequences)
    where = names(frames, files, [one.worst for one in chosen])
    details = [f"{missed[one.worst]} missed, {false[one.worst]} false" for one in chosen]
    panels = []
    for one, name, detail in zip(chosen, where, details, strict=True):
        own = compared[one.worst]
        parts = ((own.hits, "found by both"), (own.misses, "missed"), (own.false, "false"))
        boxes = [box_sheet.Box(tuple(box), kind, 1.0) for several, kind in parts for box in several.tolist()]
        picture = np.ascontiguousarray(block.pictures[one.worst][:, :, ::-1])
        panels.append(box_sheet.Panel(f"{name}: {detail}", picture, boxes))
    sheet = box_sheet.sheet(f"{manifest.name}: frames behind most errors of {device}", panels) if panels else None
    return Worst(_results(device, int((missed + false).sum()), len(block), chosen, where, details), sheet)


def table(results: dict[str, Any]) -> Table:
    """The stretches, a row each."""
    rows = [
        (one["worst"], one["detail"], f"{one['errors']:.0f}", f"{one['share']:.1%}") for one in results["stretches"]
    ]
    title = (
        f"{results['model']}: {results['errors']} errors in {results['frames']} frames; "
        f"{sum(one['share'] for one in results['stretches']):.0%} of them in these stretches of {LENGTH} frames"
    )
    return Table(title, ("worst frame", "there"), ("errors", "share"), rows)


def _results(
    model: str, errors: int, frames: int, chosen: Sequence[Stretch], where: Sequence[str], details: Sequence[str]
) -> dict[str, Any]:
    rows = zip(chosen, where, details, strict=True)
    return {
        "model": model,
        "errors": errors,
        "frames": frames,
        "stretches": [
            {
                "frames": [one.first, one.last],
                "errors": one.errors,
                "share": one.share,
                "worst": name,
                "detail": detail,
            }
            for one, name, detail in rows
        ],
    }

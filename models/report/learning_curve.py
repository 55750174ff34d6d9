"""What more footage would buy: the error of a model that is fine-tuned on parts of the footage, and its extrapolation.

The model that devices run is fine-tuned on the latest eighth, quarter, half and all of the footage to learn from, in
its own graph and in equally many steps. Its error against the full model is measured on later footage. A power law,
``error = b * frames ** -c``, is fitted to the four (J. Hestness et al., "Deep learning scaling is predictable,
empirically", arXiv 1712.00409). It has no floor, so far beyond the footage it promises too much.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.certify import traces
from cachenet.models.certify.intervals import starts
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.data.frames import USES, FramesError, uses
from cachenet.models.detect import fine_tune as detector_tuning
from cachenet.models.detect.footage import Block, take
from cachenet.models.detect.update import measure, model_of
from cachenet.models.report.tables import Table
from cachenet.models.train import fine_tune as classifier_tuning
from cachenet.models.train.recent import Blocks, Footage
from cachenet.models.train.training import scores
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import Session

#: Shares of the footage to learn from.
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
#: Multiples of the footage to learn from that would be added.
_MORE = (1, 3)
#: Epochs of a detector's fine-tuning. A build has 24; the shape of the curve needs fewer.
_EPOCHS = 4
#: Least number of frames of each use.
_MIN_FRAMES = 20
#: Later frames below which the interval is too narrow: a bootstrap needs some ten blocks of 30 frames.
_ENOUGH = 300
#: Samples of the bootstrap.
_DRAWS = 2000
#: Quantiles of a 90 % interval.
_BOUNDS = (0.05, 0.95)
#: Exponents of the fit, at most: a steeper curve of four points is noise.
_STEEPEST = 1.0

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Errors(NamedTuple):
    """Errors on later footage: ``wrong`` of ``all`` in each frame ``(n,)``. Their ratio is the error: the share of
    wrong labels, or 1 - F1 with ``wrong = fp + fn`` and ``all = 2 tp + fp + fn``."""

    wrong: Floats
    all: Floats


class Gain(NamedTuple):
    """What more frames would buy, in points of agreement or F1, with its 90 % interval."""

    frames: int
    points: float
    low: float
    high: float


def divided(sequences: Rows) -> list[Rows]:
    """Rows to learn from, to tune with and to measure on, each sequence by time. Raises ``FramesError``."""
    use = uses(sequences.tolist())
    parts = [np.flatnonzero(use == number) for number in range(len(USES))]
    for name, rows in zip(USES, parts, strict=True):
        if len(rows) < _MIN_FRAMES:
            raise FramesError(f"{len(rows)} frames to {name} with, and {_MIN_FRAMES} are needed; give more frames")
    return parts


def latest(rows: Rows, sequences: Rows, share: float) -> Rows:
    """The latest ``share`` of the rows of each sequence, at least one."""
    parts = [rows[sequences[rows] == number] for number in np.unique(sequences[rows]).tolist()]
    return np.concatenate([part[len(part) - max(1, round(share * len(part))) :] for part in parts])


def power_law(sizes: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Fit ``error = b * size ** -c`` by least squares of the logarithms.

    Args:
        sizes: Numbers of frames ``(k,)``.
        errors: Errors, over 0 ``(draws, k)``.

    Returns:
        ``log b`` and ``c``, from 0 to ``_STEEPEST``, ``(draws,)`` each.
    """
    x, y = np.log(sizes), np.log(errors)
    away = x - x.mean()
    c: Floats = np.clip(-(y @ away) / (away @ away), 0.0, _STEEPEST)
    return y.mean(1) + c * x.mean(), c


def gains(sizes: list[int], errors: list[Errors], more: list[int], seed: int = 0) -> list[Gain]:
    """What ``more`` frames would buy.

    The interval is of a bootstrap over blocks of later footage, the same for all sizes. Each sample leaves out one of
    the sizes, so that it has the uncertainty of the fit as well.

    Args:
        sizes: Numbers of frames that were learned from, ascending.
        errors: Errors after each, on the same later frames.
    """
    rng = np.random.default_rng(seed)
    first = starts(len(errors[0].wrong))
    wrong = np.stack([np.add.reduceat(one.wrong, first) for one in errors])  # (k, blocks)
    total = np.stack([np.add.reduceat(one.all, first) for one in errors])
    drawn = rng.integers(len(first), size=(_DRAWS, len(first)))
    drawn[0] = np.arange(len(first))
    sums = np.maximum(total[:, drawn].sum(2).T, 1.0)  # (draws, k)
    ratios = np.maximum(wrong[:, drawn].sum(2).T, 0.5) / sums
    left_out = rng.integers(len(sizes), size=_DRAWS)
    n = np.array(sizes, np.float64)
    bought = np.zeros((_DRAWS, len(more)))
    for leave in range(len(sizes)):
        used = np.delete(np.arange(len(sizes)), leave)
        rows = left_out == leave
        bought[rows] = _bought(n[used], ratios[rows][:, used], n[-1], more)
    points = _bought(n, ratios[:1], n[-1], more)[0]
    low, high = np.quantile(bought, _BOUNDS, axis=0)
    return [Gain(*row) for row in zip(more, points.tolist(), low.tolist(), high.tolist(), strict=True)]


def _bought(sizes: Floats, errors: Floats, now: float, more: list[int]) -> Floats:
    """Points that ``more`` frames than ``now`` would buy by the fit to each row of errors ``(draws, len(more))``."""
    log_b, c = power_law(sizes, errors)
    after = now + np.array(more, np.float64)
    return np.asarray(100 * np.exp(log_b)[:, None] * (now ** -c[:, None] - after[None] ** -c[:, None]), np.float64)


def of_classifier(bundle: Bundle, part: LabelledFrames, sequences: Rows, progress: Progress) -> dict[str, Any]:
    """The learning curve of the base model. Raises ``FramesError`` and ``NotTrainable``."""
    name = bundle.manifest.only("base")
    spec = bundle.manifest.models[name].input
    learn, tune, prove = divided(sequences)
    pictures = traces.as_pictures(part.images)

    def footage(rows: Rows) -> Footage:
        images = [traces.view(pictures[row], spec, part.full_input)[:, :, ::-1] for row in rows.tolist()]
        return Footage(np.stack(images), part.scores[rows], [])

    later, tuning = footage(prove), footage(tune)

    def errors(logits: traces.Logits) -> Errors:
        return Errors((logits.argmax(1) != later.labels).astype(np.float64), np.ones(len(later)))

    def after(rows: Rows, title: str) -> Errors:
        blocks = Blocks(footage(rows), tuning, later)
        with tempfile.TemporaryDirectory(prefix="cachenet-") as work:
            network, *_ = classifier_tuning.train(bundle, name, blocks, Path(work) / "training.pt", progress, title)
        return errors(scores(network, later.images, spec))

    session = Session(bundle.path(name), "cpu", torch.get_num_threads())
    return _curve(name, "agreement", errors(later.logits(session, spec)), learn, sequences, after)


def of_detector(bundle: Bundle, block: Block, progress: Progress) -> dict[str, Any]:
    """The learning curve of the detector that devices run. Raises ``FramesError`` and ``NotTrainable``."""
    name = bundle.manifest.better_detector() or bundle.manifest.only("base")
    model = model_of(bundle, name)
    learn, *others = divided(block.sequences)
    tune, prove = (take(block, rows) for rows in others)

    def errors(tuned: Any) -> Errors:
        hits, false, missed = measure(tuned, tune, prove).counts.T.astype(np.float64)
        return Errors(false + missed, 2 * hits + false + missed)

    def after(rows: Rows, title: str) -> Errors:
        with tempfile.TemporaryDirectory(prefix="cachenet-") as work:
            learned = take(block, rows)
            tuned, _ = detector_tuning.fine_tune(model, learned, tune, Path(work), progress, title, _EPOCHS)
        return errors(tuned)

    return _curve(name, "F1", errors(model), learn, block.sequences, after)


def _curve(
    model: str, measured: str, present: Errors, learn: Rows, sequences: Rows, after: Callable[[Rows, str], Errors]
) -> dict[str, Any]:
    """Train on each share, fit and extrapolate. ``after``: trains on rows and measures."""
    parts = [latest(learn, sequences, share) for share in SHARES]
    errors = [after(rows, f"{len(rows)} frames") for rows in parts]
    sizes = [len(rows) for rows in parts]
    bought = gains(sizes, errors, [times * sizes[-1] for times in _MORE])
    return {
        "model": model,
        "measured": measured,
        "frames_measured_on": len(present.wrong),
        "in_the_bundle": 1.0 - _ratio(present),
        "curve": [{"frames": n, "value": 1.0 - _ratio(one)} for n, one in zip(sizes, errors, strict=True)],
        "more": [{"frames": one.frames, "points": one.points, "interval": [one.low, one.high]} for one in bought],
    }


def _ratio(errors: Errors) -> float:
    return float(errors.wrong.sum() / max(1.0, errors.all.sum()))


def table(results: dict[str, Any]) -> Table:
    """The measured points."""
    rows = [("as it is in the bundle", "", f"{results['in_the_bundle']:.1%}")]
    rows += [("fine-tuned on the latest", f"{one['frames']:,}", f"{one['value']:.1%}") for one in results["curve"]]
    title = f"{results['model']} on {results['frames_measured_on']:,} later frames, against the full model"
    return Table(title, ("model",), ("frames", results["measured"]), rows)


def sentences(results: dict[str, Any]) -> list[str]:
    """What more frames would buy, a line each; and whether too few frames were measured on."""
    lines = []
    for one in results["more"]:
        low, high = one["interval"]
        half = (high - low) / 2
        remark = "" if low > 0.05 else ": not shown to buy anything"
        lines.append(
            f"{one['frames']:,} more frames would buy {one['points']:.1f} +- {half:.1f} points of "
            f"{results['measured']} (90 %: {low:.1f} to {high:.1f}){remark}"
        )
    if (measured_on := results["frames_measured_on"]) < _ENOUGH:
        lines.append(
            f"These intervals are too narrow: {measured_on} later frames were measured on, and {_ENOUGH} are needed. "
            f"Give {5 * _ENOUGH:,} frames or more"
        )
    return lines

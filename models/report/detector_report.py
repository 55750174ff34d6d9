"""Measures the detectors of a bundle on footage: hits, misses and false objects, by size and by part of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.progress import Progress

from cachenet.models.data.frames import Frames
from cachenet.models.detect.build import CURVE
from cachenet.models.report import tables
from cachenet.models.report.html_report import COLOURS, figure_of, image, page, plot, table
from cachenet.models.report.tables import Table
from cachenet.models.train.label import NothingRead
from cachenet.shared.bundle.manifest import Bundle, Manifest
from cachenet.shared.cascade.detect.detections import Boxes, Detections, f1, match, pooled_f1
from cachenet.shared.cascade.detect.spec import CANDIDATES
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture

#: Rows and columns of the parts of the picture.
_PARTS = 6
#: Frames that are drawn: those with the most errors, at most one of each stretch.
_DRAWN, _STRETCH = 6, 30
#: Sizes: thirds of the full model's objects by height.
_SIZES = ("small", "medium", "large")
#: Colours of hits, misses and false objects.
HIT, MISS, FALSE = "#009E73", "#0072B2", "#D55E00"


@dataclass(frozen=True)
class Outcome:
    """The objects of one frame: those that the detector and the full model find, and those that only one finds."""

    hits: Boxes
    misses: Boxes
    false: Boxes


@dataclass(frozen=True)
class DetectorReport:
    """``results``: as ``--json`` prints them; ``outcomes``: by model; ``worst``: frames that are drawn, by number."""

    manifest: Manifest
    results: dict[str, Any]
    outcomes: dict[str, list[Outcome]]
    worst: list[tuple[int, Picture]]


def report(bundle: Bundle, frames: Frames, threads: int, progress: Progress) -> DetectorReport:
    """Run all detectors of ``bundle`` over ``frames``.

    Raises:
        NothingRead: No file can be read.
        EngineError: A model does not run.
    """
    manifest = bundle.manifest
    detectors = {name: detector_of(bundle, name, threads) for name in manifest.models}
    full, local = manifest.only("full"), [name for name in manifest.models if name != manifest.only("full")]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in local}
    device = manifest.better_detector() or manifest.only("base")
    worst: dict[int, tuple[int, int, Picture]] = {}  # by stretch: errors, number, frame
    task = progress.add_task("frames", total=None)
    for number, frame in enumerate(frames):
        reference = detectors[full](frame.picture)
        for name in local:
            outcomes[name].append(outcome(detectors[name](frame.picture), reference))
        errors = len(outcomes[device][-1].misses) + len(outcomes[device][-1].false)
        if errors > worst.get(number // _STRETCH, (0,))[0]:
            worst[number // _STRETCH] = (errors, number, frame.picture)
        progress.update(task, completed=number + 1)
    progress.remove_task(task)
    if not outcomes[device]:
        path, why = next(iter(frames.broken.items()), (frames.files[0], "it is empty"))
        raise NothingRead(f"no file can be read; the first, {shown(path)}: {why}")
    heights = _heights([box for one in outcomes[device] for box in (one.hits, one.misses)])
    limits = np.quantile(heights, [1 / 3, 2 / 3]).tolist() if len(heights) else [0.0, 1.0]
    results = {
        "name": manifest.name,
        "version": bundle.version,
        "signed": bundle.signed,
        "frames": len(outcomes[device]),
        "device": device,
        "heights": [round(limit, 4) for limit in limits],
        "models": {name: tables.model_row(manifest.models[name]) | measures(outcomes[name], limits) for name in local},
        "certificates": [
            {"budget": one.max_disagreement, "object_error": one.disagreement, "asked": one.asked, "holds": one.holds}
            for one in manifest.certificates
        ],
        "provenance": manifest.provenance,
    }
    chosen = sorted(worst.values(), key=lambda one: -one[0])[:_DRAWN]
    return DetectorReport(manifest, results, outcomes, sorted((number, picture) for _, number, picture in chosen))


def outcome(found: Detections, reference: Detections) -> Outcome:
    """Compare a detector's objects with the full model's."""
    pairs = match(found.boxes, found.labels, reference.boxes, reference.labels)
    mine, theirs = np.zeros(len(found), np.bool_), np.zeros(len(reference), np.bool_)
    mine[[row for row, _ in pairs]] = True
    theirs[[row for _, row in pairs]] = True
    return Outcome(reference.boxes[theirs], reference.boxes[~theirs], found.boxes[~mine])


def measures(outcomes: Sequence[Outcome], limits: Sequence[float]) -> dict[str, Any]:
    """F1, precision and recall, and F1 by size; ``limits``: heights between the sizes, shares of the picture."""
    counts = np.array([(len(one.hits), len(one.false), len(one.misses)) for one in outcomes])
    hits, false, misses = counts.sum(0).tolist()
    found: dict[str, Any] = {
        "f1": round(pooled_f1(counts), 4),
        "precision": round(hits / (hits + false), 4) if hits + false else 1.0,
        "recall": round(hits / (hits + misses), 4) if hits + misses else 1.0,
        "sizes": {},
    }
    parts = [
        np.digitize(_heights([getattr(one, part) for one in outcomes]), limits) for part in Outcome.__annotations__
    ]
    for number, name in enumerate(_SIZES):
        of_size = {part: int((each == number).sum()) for part, each in zip(Outcome.__annotations__, parts, strict=True)}
        found["sizes"][name] = of_size | {"f1": round(f1(of_size["hits"], of_size["false"], of_size["misses"]), 4)}
    return found


def detector_of(bundle: Bundle, name: str, threads: int) -> Detector:
    """A detector of the bundle; a local one with the threshold at which its objects alone are best."""
    model = bundle.manifest.models[name]
    assert model.decoder is not None
    decoder = model.decoder
    if model.role != "full":
        decoder = msgspec.structs.replace(decoder, score=min(1.0, decoder.score / CANDIDATES))
    return Detector(Session(bundle.path(name), "cpu", threads).run_all, model.input, decoder)


def _heights(boxes: Sequence[Boxes]) -> npt.NDArray[np.float64]:
    together = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
    return np.asarray(together[:, 3] - together[:, 1], np.float64)


def models_table(results: dict[str, Any]) -> Table:
    """Cost and agreement of each detector with the full model."""
    rows = [
        (
            name,
            row["role"],
            *tables.costs(row),
            *(f"{row[key]:.3f}" for key in ("f1", "precision", "recall")),
        )
        for name, row in results["models"].items()
    ]
    head = (*tables.COSTS, "F1", "precision", "recall")
    return Table(f"{results['name']}: single frames against the full model", ("model", "role"), head, rows)


def sizes_table(results: dict[str, Any]) -> Table:
    """Hits, misses and false objects by size, of the detector that devices run."""
    low, high = results["heights"]
    named = {"small": f"under {low:.0%} of the picture's height", "medium": "between", "large": f"over {high:.0%}"}
    sizes = results["models"][results["device"]]["sizes"]
    rows = [
        (f"{name}: {named[name]}", *(str(own[part]) for part in ("hits", "misses", "false")), f"{own['f1']:.3f}")
        for name, own in sizes.items()
    ]
    return Table(f"objects of {results['device']} by height", ("size",), ("hits", "misses", "false", "F1"), rows)


def html(made: DetectorReport) -> str:
    """The page."""
    results = made.results
    device = results["device"]
    parts = [
        f"<h1>{escape(results['name'])}</h1>",
        f'<p class="faint">Version {results["version"][:12]}, {"signed" if results["signed"] else "not signed"}; '
        f"{results['frames']} frames. Devices run <b>{escape(device)}</b>.</p>",
        *_html(models_table(results)),
        *_html(sizes_table(results)),
        "<h2>Where it errs</h2>",
        f"<p>Objects of {escape(device)} by part of the picture, at the middle of the lower edge of each box.</p>",
        image(_map(made.outcomes[device]), "Misses and false objects by part of the picture"),
        "<h2>Frames with the most errors</h2>",
        f'<p>Green: found by both. <span style="color:{MISS}">Blue, dashed: missed.</span> '
        f'<span style="color:{FALSE}">Orange: false.</span></p>',
        *([image(_worst(made), "The frames with the most errors")] if made.worst else ["<p>There are none.</p>"]),
    ]
    if curve := _curve(made.manifest.provenance.get(CURVE, "")):
        parts += ["<h2>Training</h2>", image(_training(curve), "F1 on the frames to tune after each epoch")]
    parts += ["<h2>Provenance</h2>", table(("what", ""), list(made.manifest.provenance.items()))]
    return page(f"{results['name']}: report", parts)


def _curve(text: str) -> list[float]:
    return [float(one) for one in text.split()]


def _training(curve: Sequence[float]) -> Figure:
    figure, axes = plot(9, 3.4)
    axes.plot(range(1, len(curve) + 1), curve, "o-", color=COLOURS[0], ms=4)
    axes.set(xlabel="epoch", ylabel="F1 on the frames to tune")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _html(made: Table) -> list[str]:
    return [f"<p>{escape(made.title)}</p>", table((*made.words, *made.numbers), made.rows)]


def _map(outcomes: Sequence[Outcome]) -> Figure:
    figure = figure_of(11, 3.6)
    for axes, (part, title) in zip(
        figure.subplots(1, 3), (("hits", "found"), ("misses", "missed"), ("false", "false")), strict=True
    ):
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(getattr(one, part) for one in outcomes)])
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]
        counts, _, _ = np.histogram2d(y, x, _PARTS, ((0, 1), (0, 1)))
        axes.imshow(counts, cmap="Blues", extent=(0, 1, 1, 0), aspect=0.75)
        for row, column in np.argwhere(counts > 0).tolist():
            place = ((column + 0.5) / _PARTS, (row + 0.5) / _PARTS)
            dark = counts[row, column] > 0.6 * counts.max()
            axes.text(
                *place, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=7, color="w" if dark else "k"
            )
        axes.set_title(f"{title}: {len(boxes)}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def _worst(made: DetectorReport) -> Figure:
    columns = min(3, len(made.worst))
    rows = -(-len(made.worst) // columns)
    first = made.worst[0][1]
    figure = figure_of(4 * columns, (4 * first.shape[0] / first.shape[1] + 0.3) * rows)
    outcomes = made.outcomes[made.results["device"]]
    for axes, (number, picture) in zip(np.atleast_1d(figure.subplots(rows, columns)).flat, made.worst, strict=False):
        height, width = picture.shape[:2]
        axes.imshow(picture[:, :, ::-1])
        one = outcomes[number]
        for boxes, colour, style in ((one.hits, HIT, "-"), (one.misses, MISS, "--"), (one.false, FALSE, "-")):
            for left, top, right, bottom in (boxes * [width, height, width, height]).tolist():
                size = (right - left, bottom - top)
                axes.add_patch(Rectangle((left, top), *size, fill=False, ec=colour, lw=1.3, ls=style))
        axes.set_title(f"frame {number}: {len(one.misses)} missed, {len(one.false)} false", fontsize=8)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure

"""How far a place goes: F1 over minutes of footage and of training, of a detector
fine-tuned on the footage, and of own detectors trained from nothing.

    python -m benchmarks.place --video clip.avi --full full.onnx \\
        --base small.onnx --labels person --learn 0:300 --tune 316:380 \\
        --measure 405:795 --json --plot place.png

F1 is that of single frames against the full model, without tracks or questions.
Thresholds come from the frames to tune; the measured frames decide nothing. Shares
of the footage are its first part and are trained for as many steps. An interrupted
run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.objects.__main__ import frame_range
from cachenet.models.build_config import key
from cachenet.models.data.frames import find
from cachenet.models.detect import agreement, build, fine_tune
from cachenet.models.detect.export import export
from cachenet.models.detect.footage import Block, read_block, take
from cachenet.models.detect.network import HeatmapNet, HeatmapShape
from cachenet.models.detect.train import train
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.models.export.metadata import format_labels
from cachenet.models.train.networks import Network
from cachenet.shared.command import exit
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.decoders import Decoder
from cachenet.simulator.traces.record_scene import size_of

_PROGRAM = "benchmarks.place"
#: Own detectors: widths, and width and height of the input as a product, pixels.
OWN = {"small": ((8, 16, 16), 384 * 288), "medium": ((16, 32, 48), 384 * 288), "large": ((24, 48, 64), 384 * 288)}
#: Epochs of an own detector.
_EPOCHS = 40
#: Runs of a model for its time.
_RUNS = 50


@dataclass(frozen=True)
class Parts:
    """The frames of one video as a detector sees them."""

    learn: Block
    tune: Block
    measure: Block


class Recorder:
    """Measures a detector after each epoch: F1 on the measured frames at the threshold tuned on others."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._since = time.process_time()

    def __call__(self, model: DetectorModel) -> dict[str, float]:
        """F1 on the measured frames, the threshold, and the processor time of the epoch, seconds."""
        seconds = time.process_time() - self._since
        found = f1(model, self._parts) | {"seconds": seconds}
        self._since = time.process_time()
        return found


def f1(model: DetectorModel, parts: Parts) -> dict[str, float]:
    """F1 on the measured frames at the threshold that is best on the frames to tune."""
    detector = agreement.lowered(model).detector(1)
    best = agreement.best(agreement.run(detector, parts.tune), parts.tune.reference)
    found = agreement.at(agreement.run(detector, parts.measure), parts.measure.reference, best.score)
    return {"measured": found.f1, "score": best.score}


def milliseconds(model: DetectorModel) -> float:
    """Shortest time of a run on one core of this machine, which other work does not lengthen."""
    width, height = model.input.size
    run = model.detector(1)
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    times = []
    for _ in range(_RUNS):
        begun = time.perf_counter()
        run(picture)
        times.append(1000 * (time.perf_counter() - begun))
    return round(min(times), 2)


class Curves:
    """Trains detectors on parts of the footage, and measures each after every epoch."""

    def __init__(self, video: Path, full: DetectorModel, ranges: tuple[range, range, range], work: Path) -> None:
        self._video, self._full, self._ranges, self._work = video, full, ranges, work

    def fine_tuned(self, base: DetectorModel, share: float, epochs: int) -> dict[str, Any]:
        """The row of a given detector."""
        with progress_bar() as progress:
            parts = self._parts(base, share, progress)
            before = f1(base, parts)["measured"]
            directory = self._work / key(build.fingerprint(parts.learn))
            _, rows = fine_tune.fine_tune(
                base, parts.learn, parts.tune, directory, progress, base.path.stem, epochs, on_epoch=Recorder(parts)
            )
        return self._row(f"fine-tuned {base.path.stem}", base, share, before, rows)

    def own(self, name: str, share: float, epochs: int) -> dict[str, Any]:
        """The row of an own detector, trained from nothing."""
        widths, area = OWN[name]
        spec = build.own_input(size_of(self._video), area)
        labels, shape = self._full.labels, HeatmapShape(widths, len(self._full.labels))
        path = self._work / f"own-{name}-{share:g}.onnx"
        decoder = Decoder("heatmap", tuple(range(len(labels))), overlap=0.6)
        described = {one: msgspec.json.encode(value).decode() for one, value in (("input", spec), ("decoder", decoder))}

        def as_model(network: Network) -> DetectorModel:
            assert isinstance(network, HeatmapNet)
            path.parent.mkdir(parents=True, exist_ok=True)
            export(network.eval(), spec.size, path, {"labels": format_labels(labels), **described})
            return load_detector(path)

        with progress_bar() as progress:
            parts = self._parts(as_model(HeatmapNet(shape)), share, progress)
            recorder = Recorder(parts)
            directory = self._work / key(build.fingerprint(parts.learn))
            network, rows = train(
                *(shape, spec, parts.learn, epochs, directory, progress, name),
                evaluate=lambda network: recorder(as_model(network)),
            )
            return self._row(f"own {name}", as_model(network), share, 0.0, rows)

    def _parts(self, model: DetectorModel, share: float, progress: Progress) -> Parts:
        whole = read_block(self._full, find(self._video), model.input, self._work, 1, progress)
        learn, tune, measure = self._ranges
        some = learn[: round(share * len(learn))]
        return Parts(*(take(whole, np.array(frames)) for frames in (some, tune, measure)))

    def _row(
        self, name: str, model: DetectorModel, share: float, before: float, rows: list[dict[str, float]]
    ) -> dict[str, Any]:
        minutes = np.cumsum([row["seconds"] for row in rows]) / 60
        frames = round(share * len(self._ranges[0]))
        return {
            "name": name,
            "ms": milliseconds(model),
            "frames": frames,
            "footage_minutes": round(frames / 600, 3),
            "before": round(before, 4),
            "curve": [
                [round(float(done), 2), round(row["measured"], 4)] for done, row in zip(minutes, rows, strict=True)
            ],
        }


def main() -> None:
    chosen = _parser().parse_args()
    torch.set_num_threads(1)
    try:
        labels = tuple(chosen.labels.split(",")) if chosen.labels else None
        full = load_detector(chosen.full, labels=labels)
        curves = Curves(chosen.video, full, (chosen.learn, chosen.tune, chosen.measure), chosen.work)
        rows = []
        for path in chosen.base:
            whole, base = build.common_labels(full, load_detector(path, labels=labels))
            if whole.labels != full.labels:
                raise UserError(f"{path.name} does not find all of {', '.join(full.labels)}; give --labels")
            rows += [curves.fine_tuned(base, share, chosen.epochs) for share in chosen.shares]
        for name in chosen.own:
            rows += [curves.own(name, share, chosen.own_epochs) for share in chosen.shares]
        result = {
            "video": chosen.video.name,
            "full": chosen.full.name,
            "labels": list(full.labels),
            "frames": {
                use: [one.start, one.stop]
                for use, one in (("learn", chosen.learn), ("tune", chosen.tune), ("measure", chosen.measure))
            },
            "rows": rows,
        }
        if chosen.plot:
            plot(chosen.plot, result)
    except UserError as error:
        exit.say(_PROGRAM, str(error))
        sys.exit(2)
    print(json.dumps(result) if chosen.json else as_text(result))


def as_text(result: dict[str, Any]) -> str:
    """The result as a table of at most 80 columns."""
    lines = [
        f"{result['video']}, {', '.join(result['labels'])}: F1 of single frames against {result['full']}",
        f"{'detector':<30}{'ms':>6}{'frames':>8}{'before':>8}{'1/4':>7}{'1/2':>7}{'trained':>9}{'minutes':>8}",
    ]
    for row in result["rows"]:
        curve = [value for _, value in row["curve"]]
        early, half = curve[max(0, len(curve) // 4 - 1)], curve[max(0, len(curve) // 2 - 1)]
        before = f"{row['before']:.3f}" if row["before"] else ""
        lines.append(
            f"{row['name'][:29]:<30}{row['ms']:>6.1f}{row['frames']:>8}{before:>8}{early:>7.3f}{half:>7.3f}"
            f"{curve[-1]:>9.3f}{row['curve'][-1][0]:>8.1f}"
        )
    return "\n".join([*lines, "minutes: processor time of the training; 1/4, 1/2: after that share of it"])


def plot(path: Path, result: dict[str, Any]) -> None:
    """Write a PNG of F1 over minutes of training. Raises ``OSError``."""
    from cachenet.models.report.html_report import COLOURS
    from cachenet.models.report.html_report import plot as plane

    figure, axes = plane(9, 5)
    for row, colour in zip(result["rows"], COLOURS * 4, strict=False):
        style = "-" if row["name"].startswith("fine-tuned") else "--"
        label = f"{row['name']}, {row['frames']} frames, {row['ms']:g} ms"
        axes.plot(*zip(*row["curve"], strict=True), style, color=colour, lw=1.6, label=label)
        if row["before"]:
            axes.plot(0, row["before"], "o", color=colour, ms=4)
    axes.set(xlabel="minutes of training on one core", ylabel="F1 of single frames, measured frames")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, format="png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_footage(parser)
    add: Callable[..., Any] = parser.add_argument
    add("--base", type=Path, action="append", default=[], metavar="FILE.onnx", help="detector to fine-tune; repeat it")
    add("--own", action="append", default=[], choices=list(OWN), help="own detector from nothing; repeat it")
    add("--shares", type=_shares, default=(1.0,), metavar="A,B", help="shares of the footage (default: 1)")
    add("--own-epochs", type=int, default=_EPOCHS, metavar="N", help="epochs from nothing")
    add("--plot", type=Path, metavar="FILE.png", help="write a plot (default: none)")
    return parser


def add_footage(parser: argparse.ArgumentParser) -> None:
    """Add the options of the full model, its footage and the training."""
    add: Callable[..., Any] = parser.add_argument
    add("--video", type=Path, required=True, metavar="FILE", help="video file")
    add("--full", type=Path, required=True, metavar="FILE.onnx", help="full model, whose boxes are learned")
    add("--labels", metavar="A,B", help="labels to find (default: all)")
    add("--learn", type=frame_range, required=True, metavar="FIRST:END", help="frames to learn from")
    add("--tune", type=frame_range, required=True, metavar="FIRST:END", help="frames for thresholds")
    add("--measure", type=frame_range, required=True, metavar="FIRST:END", help="frames that are measured")
    add("--epochs", type=int, default=fine_tune.EPOCHS, metavar="N", help="epochs of fine-tuning")
    add("--work", type=Path, default=Path("build/place"), metavar="DIR", help="directory of checkpoints")
    add("--json", action="store_true", help="print JSON in place of a table")


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(","))


def progress_bar() -> Progress:
    """Progress on standard error, where that is a terminal."""
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())


if __name__ == "__main__":
    main()

"""Small detectors of people in a tile of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from rich.progress import Progress

from benchmarks.literature.scene_reuse.places import TILE_GENERAL, TILE_PLACES, Place, Segment
from benchmarks.literature.scene_reuse.trial import Outcomes
from cachenet.models.detect import agreement, build, fine_tune
from cachenet.models.detect.export import export
from cachenet.models.detect.footage import Block, take
from cachenet.models.detect.network import HeatmapShape
from cachenet.models.detect.train import train
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.models.export.metadata import format_labels
from cachenet.shared.cascade.detect.detections import counts
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.decoders import Decoder

LABELS = ("person",)
#: Input of the detectors: 192 x 192 pixels, about the size of a tile.
INPUT = build.own_input((192, 192), 192 * 192)
#: Widths of the smallest own detector; see ``benchmarks.place``.
_SHAPE = HeatmapShape((8, 16, 16), len(LABELS))
#: Share of a segment, from its start, that a detector learns from; the rest tells when to stop, and the threshold.
_LEARN = 0.75
#: Most objects of a frame that the mix of labels counts.
MOST = 3
#: Step between the measured frames.
_EVERY = 2


def joined(blocks: Sequence[Block]) -> Block:
    """The frames of blocks, one sequence each."""
    return Block(
        np.concatenate([one.pictures for one in blocks]),
        tuple(found for one in blocks for found in one.objects),
        np.concatenate([np.full(len(one), number, np.int64) for number, one in enumerate(blocks)]),
        blocks[0].score,
    )


def divided(segments: Sequence[Segment]) -> tuple[Block, Block]:
    """The frames to learn from, and those to tune with."""
    parts = []
    for one in segments:
        learned = round(_LEARN * len(one.block))
        rows = np.arange(len(one.block))
        parts.append((take(one.block, rows[:learned]), take(one.block, rows[learned:])))
    learn, tune = zip(*parts, strict=True)
    return joined(learn), joined(tune)


class Tiles:
    """The detectors; methods as of ``Zones``."""

    name = "detectors"
    places: Sequence[Place] = TILE_PLACES
    general_places: Sequence[Place] = TILE_GENERAL
    input = INPUT
    labels = MOST + 1

    def __init__(self, work: Path, general_epochs: int, epochs: int, progress: Progress) -> None:
        self.work, self._general_epochs, self._epochs, self._progress = work, general_epochs, epochs, progress

    def label(self, block: Block) -> npt.NDArray[np.int64]:
        """Number of the full model's objects on each frame, ``MOST`` at most ``(n,)``."""
        return np.minimum([len(found) for found in block.reference], MOST).astype(np.int64)

    def general(self, segments: Sequence[Segment]) -> Path:
        path = self.work / "general.onnx"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            learn, tune = divided(segments)
            network, _ = train(_SHAPE, INPUT, learn, self._general_epochs, self.work, self._progress, "general")
            decoder = Decoder("heatmap", tuple(range(len(LABELS))), overlap=0.6)
            raw = self.work / "general-raw.onnx"
            export(network.eval(), INPUT.size, raw, _properties(decoder))
            _write(load_detector(raw), tune, path)
        return path

    def submodel(self, segments: Sequence[Segment], path: Path) -> None:
        learn, tune = divided(segments)
        base, work = load_detector(self.work / "general.onnx"), path.with_suffix("")
        work.mkdir(parents=True, exist_ok=True)
        tuned, _ = fine_tune.fine_tune(base, learn, tune, work, self._progress, path.stem, self._epochs)
        _write(tuned, tune, path)

    def outcomes(self, model: Path, blocks: Sequence[Block], footage_frames: int, gap: int) -> list[Outcomes]:
        detector, outcomes = load_detector(model).detector(1), []
        for block in blocks:
            measured = np.arange(footage_frames + gap, len(block), _EVERY)
            some = take(block, np.concatenate([np.arange(footage_frames), measured]))
            found = agreement.run(detector, some)
            each = np.array([counts(one, other) for one, other in zip(found, some.reference, strict=True)], np.int64)
            outcomes.append(Outcomes(each[:footage_frames], np.zeros(footage_frames), each[footage_frames:]))
        return outcomes


def _write(model: DetectorModel, tune: Block, path: Path) -> None:
    """Write a detector with the threshold that is best on ``tune``."""
    found = agreement.run(agreement.lowered(model).detector(1), tune)
    decoder = msgspec.structs.replace(model.decoder, score=agreement.best(found, tune.reference).score)
    graph = onnx.ModelProto()
    graph.CopyFrom(model.graph)
    about = {f"cachenet.{name}": value for name, value in _properties(decoder).items()}
    onnx.helper.set_model_props(graph, about)
    atomic_files.write(path, graph.SerializeToString(deterministic=True))


def _properties(decoder: Decoder) -> dict[str, str]:
    """What a file states of a detector."""
    described = {"input": INPUT, "decoder": decoder}
    return {"labels": format_labels(LABELS)} | {k: msgspec.json.encode(v).decode() for k, v in described.items()}

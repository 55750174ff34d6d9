"""The bundle ``campus`` of the zoo: three own detectors, trained on the boxes of a teacher.

    python -m benchmarks.campus --teacher nanodet_plus_m_416.onnx \\
        --video vtest.avi --out models/zoo/campus
    python -m benchmarks.campus --teacher nanodet_plus_m_416.onnx \\
        --video vtest.avi --check

The networks learn from frames 0 to 379 of the video. ``--check`` trains them on
frames 0 to 299 and compares them on frames 316 to 379. The priors of the risk
models are from these, too. Frames 405 to 794 are for the comparison that is
printed at the end, and nothing is fitted on them. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
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
from cachenet.models.detect.certify import DELAY, traces
from cachenet.models.detect.footage import first_size, read_block, take
from cachenet.models.detect.network import HeatmapShape
from cachenet.models.detect.train import STEPS, train
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.shared.bundle.manifest import FORMAT, Manifest, Model, digest
from cachenet.shared.cascade.detect.scene_features import SceneModel
from cachenet.shared.cascade.detect.scene_replay import fit_scene_priors
from cachenet.shared.cascade.detect.spec import CANDIDATES
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session

LABELS = ("person",)
#: Frames to learn from.
LEARN = range(380)
#: Frames that the networks of ``--check`` learn from, and frames to compare them on. Between them are 16 frames, the
#: gap of ``model-builder build``.
CHECK_LEARN, CHECKED = range(300), range(316, 380)
#: Parts of the frames to learn from for the priors, and frames left out on each side of a part.
FOLDS, GAP = 3, 16
#: Frames on which nothing is fitted. Between them and those to learn from are 25 frames, two and a half seconds.
MEASURED = range(405, 795)
#: Score of a detection, as for the teacher. The score of the greatest F1 on frames 300 to 379, of networks of several
#: sizes that had learned from frames 0 to 299, was 0.35 to 0.45.
SCORE = 0.4
#: What made the labels, for the provenance. The video is of the data set PETS 2009.
TEACHER = "NanoDet-Plus-m 416 (RangiLyu/nanodet, Apache-2.0), persons of score 0.4 and more"
VIDEO = "vtest.avi of OpenCV's samples (Debian opencv-doc), from PETS 2009, frames 0 to 379"


@dataclass(frozen=True)
class Network:
    """A network of the bundle, and its training; see ``DetectorConfig``."""

    role: Literal["full", "base", "submodel"]
    widths: tuple[int, int, int]
    area: int
    epochs: int
    batch: int


NETWORKS = {
    "full": Network("full", (24, 48, 80), 576 * 432, 20, 8),
    "base": Network("base", (16, 32, 32), 384 * 288, 20, 16),
    "tiny": Network("submodel", (8, 16, 16), 384 * 288, 20, 16),
}


def make(
    teacher: DetectorModel,
    video: Path,
    work: Path,
    learn: Sequence[int],
    directory: Path,
    networks: Mapping[str, Network],
) -> dict[str, Model]:
    """Train ``networks`` on the frames ``learn`` and write them into ``directory``; return their entries by name."""
    models: dict[str, Model] = {}
    with _progress() as progress:
        for name, network in networks.items():
            spec = build.own_input(first_size(find(video)), network.area)
            part = take(read_block(teacher, find(video), spec, work, 1, progress), np.array(learn))
            results = work / f"campus-{key(build.fingerprint(part))}"
            shape = HeatmapShape(network.widths, len(LABELS))
            trained = train(shape, spec, part, network.epochs, results, progress, name, network.batch)
            entry = build.write_own(directory, name, network.role, trained, spec, LABELS, "campus")
            assert entry.decoder is not None
            # The device's risk models weigh what is found, so that it looks at more than is likely right.
            score = SCORE if network.role == "full" else round(CANDIDATES * SCORE, 3)
            models[name] = msgspec.structs.replace(entry, decoder=msgspec.structs.replace(entry.decoder, score=score))
    return models


def fit_priors(
    teacher: DetectorModel, video: Path, work: Path, directory: Path, models: dict[str, Model]
) -> dict[SceneModel, RiskPrior]:
    """Priors of the risk models by cross-fitting: on each part of ``LEARN``, a base model that did not learn from it.

    The bundle's own base model learned from all these frames, and would look surer than it is elsewhere. The reference
    is the full model in ``directory``.
    """
    proving = []
    with tempfile.TemporaryDirectory() as name, _progress() as progress:
        parts = {role: read_block(teacher, find(video), models[role].input, work, 1, progress) for role in models}
        full = models["full"]
        assert full.decoder is not None
        detector = Detector(Session(directory / full.file, "cpu", 1).run_all, full.input, full.decoder)
        for fold in range(FOLDS):
            first, end = (part * len(LEARN) // FOLDS for part in (fold, fold + 1))
            others = [frame for frame in LEARN if not first - GAP <= frame < end + GAP]
            local = Path(name) / str(fold)
            written = make(teacher, video, work, others, local, {"base": NETWORKS["base"]})
            rows = np.arange(first, end)
            reference = agreement.run(detector, take(parts["full"], rows))
            block = replace(take(parts["base"], rows), objects=tuple(reference), score=SCORE)
            proving += traces(build.local_detectors(local, written)["base"], block)
    return fit_scene_priors(proving, DELAY)


def compare(
    teacher: DetectorModel, video: Path, work: Path, frames: range, directory: Path, models: dict[str, Model]
) -> dict[str, Any]:
    """F1 of each model in ``directory`` against the teacher, and against the bundle's full model, on ``frames``."""
    answers, blocks = {}, {}
    with _progress() as progress:
        for name, model in models.items():
            part = take(read_block(teacher, find(video), model.input, work, 1, progress), np.array(frames))
            assert model.decoder is not None
            lower = msgspec.structs.replace(model.decoder, score=agreement.LEAST)
            detector = Detector(Session(directory / model.file, "cpu", 1).run_all, model.input, lower)
            answers[name], blocks[name] = agreement.run(detector, part), part
    labels = blocks["full"].reference
    full = [one.take(one.scores >= SCORE) for one in answers["full"]]
    return {
        "frames": [frames[0], frames[-1]],
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


def provenance(teacher: DetectorModel, video: Path) -> dict[str, str]:
    """What the bundle was made from. Dates and paths are left out, so that the same run gives the same bundle."""
    return {
        "made by": "python -m benchmarks.campus",
        "teacher": TEACHER,
        "teacher sha256": digest(teacher.path.read_bytes()),
        "video": VIDEO,
        "video sha256": digest(video.read_bytes()),
        **{name: f"{one.epochs * STEPS} steps of {one.batch} frames, seed 0" for name, one in NETWORKS.items()},
        "risk priors": f"cross-fitted: {FOLDS} base models, each on the third of the frames that it did not learn from",
        "torch": str(torch.__version__),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/campus"))
    parser.add_argument("--work", type=Path, default=Path("build/campus-work"))
    parser.add_argument("--check", action="store_true", help="train on fewer frames, compare, and write no bundle")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load_detector(arguments.teacher, labels=LABELS)
    if arguments.check:
        with tempfile.TemporaryDirectory() as name:
            models = make(teacher, arguments.video, arguments.work, CHECK_LEARN, Path(name), NETWORKS)
            found = compare(teacher, arguments.video, arguments.work, CHECKED, Path(name), models)
    else:
        with under_construction(arguments.out) as building:
            models = make(teacher, arguments.video, arguments.work, LEARN, building, NETWORKS)
            priors = fit_priors(teacher, arguments.video, arguments.work, building, models)
            about = provenance(teacher, arguments.video)
            manifest = Manifest(FORMAT, "campus", "detection", LABELS, models, about, scene_priors=priors)
            bundle = publish(building, manifest, arguments.out, None)
        found = compare(teacher, arguments.video, arguments.work, MEASURED, bundle.directory, models)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

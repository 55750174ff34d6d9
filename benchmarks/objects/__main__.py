"""Compare policies for detectors on a video, with any two ONNX detectors: a full
model, the reference, on a server, and a small one on the device. The models run
over the frames once; later runs read the cached detections.

    python -m benchmarks.objects --video clip.avi --full full.onnx \\
        --base small.onnx --labels person --build 0:380 --measure 405:795
    python -m benchmarks.objects --bundle models/zoo/campus --video clip.avi \\
        --link 3g --build 0:380 --measure 405:795 --json --plot objects.png

Policies: cachenet at several risk budgets; server-only; device-base; hold and
carry (a question every n-th frame, its boxes held, or carried by optical flow);
difference (NoScope); motion (as Frigate does); react (arXiv 2210.01402); oracle,
a bound. All settings, thresholds and priors come from the build frames. Replies
arrive as late as link, server and picture size make them.
Exit code 2: a video, a model or a range of frames that cannot be used.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec

from benchmarks.objects import measure, report, truth
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.models.export.preprocessing import parse_preprocessing
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.scene_features import ScenePriors, SceneStage
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.command import exit
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.engine import EngineError
from cachenet.simulator.policies.scene_run import Network
from cachenet.simulator.traces.record_scene import Clip, record, size_of
from cachenet.simulator.world import link_profiles

#: Least score of the recorded detections of the device's detector.
_LOW_SCORE = 0.1
#: Least number of frames of a range.
_LEAST = 30
_PROGRAM = "benchmarks.objects"


@dataclass(frozen=True)
class Models:
    """The two detectors, and what a bundle fixes.

    Attributes:
        full: The full model.
        base: The device's detector, with all detections of some score.
        stage: What the device's detector is in its bundle.
        priors: Priors of the risk models; None for priors from the build frames.
        least: Least score of a candidate of the cascade; None for one from the build frames.
        answer_score: See ``LocalDetector``.
    """

    full: DetectorModel
    base: DetectorModel
    stage: SceneStage
    priors: ScenePriors | None
    least: float | None
    answer_score: float | None


def main() -> None:
    parser = _parser()
    chosen = parser.parse_args()
    try:
        result = _result(chosen)
        if chosen.plot:
            report.plot(chosen.plot, result)
    except (UserError, EngineError) as error:
        exit.say(_PROGRAM, str(error))
        sys.exit(2)
    except OSError as error:
        exit.say(_PROGRAM, f"{error.filename}: {error.strerror}")
        sys.exit(1)
    try:
        print(json.dumps(result) if chosen.json else report.as_text(result), flush=True)
    except BrokenPipeError:  # the reader, such as ``head``, has ended
        exit.close_stdout()
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--video", type=Path, required=True, metavar="FILE", help="video file")
    add("--full", type=Path, metavar="FILE.onnx", help="full model (default: the bundle's)")
    add(
        "--base",
        type=Path,
        metavar="FILE.onnx",
        help="detector of the device (default: that of the bundle)",
    )
    add("--device", default="", metavar="NAME", help="device whose own submodel of the bundle is used (default: none)")
    add(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.onnx",
        help="another detector of the device, compared with the same cascade at equal questions; repeat it",
    )
    add("--preprocessing", metavar="P", help="of --full, as for model-builder build (default: found from the file)")
    add("--base-preprocessing", metavar="P", help="the same of --base (default: found from the file)")
    add("--bundle", type=Path, metavar="DIR", help="bundle of models and priors (default: none)")
    add("--labels", metavar="A,B", help="labels to find (default: all that both models find)")
    add("--build", type=frame_range, required=True, metavar="FIRST:END", help="frames for settings and priors")
    add("--measure", type=frame_range, required=True, metavar="FIRST:END", help="frames that are measured")
    add("--fps", type=_positive, metavar="F", help="frames per second (default: the video's)")
    add("--link", default="lte", metavar="NAME", help="link profile, or a CSV file of a recorded link (default: lte)")
    add("--server-ms", type=_positive, default=50.0, metavar="MS", help="time of the full model (default: 50)")
    add("--truth", type=Path, metavar="MOT.txt", help="true boxes of people, MOTChallenge format (default: none)")
    add("--json", action="store_true", help="print JSON in place of tables")
    add("--plot", type=Path, metavar="FILE.png", help="write a plot of F1 over share asked (default: none)")
    add("--seed", type=int, default=0, help="seed of link, audits and bootstrap (default: 0)")
    return parser


def frame_range(text: str) -> range:
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or int(found[2]) - int(found[1]) < _LEAST:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:END with at least {_LEAST} frames, such as 0:380")
    return range(int(found[1]), int(found[2]))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return value


def _result(chosen: argparse.Namespace) -> dict[str, Any]:
    """The result, as in the JSON. Raises ``UserError`` and ``EngineError``."""
    cv2.setNumThreads(1)  # times are of one core
    build, measured = chosen.build, chosen.measure
    if max(build.start, measured.start) < min(build.stop, measured.stop):
        raise UserError(f"--build {build.start}:{build.stop} and --measure {measured.start}:{measured.stop} overlap")
    if chosen.plot is not None and not chosen.plot.parent.is_dir():
        raise UserError(f"--plot {chosen.plot}: {chosen.plot.parent} is no directory")
    network = Network(link_profiles.load(chosen.link), chosen.server_ms / 1000, chosen.seed)
    models = _models(chosen)
    people = None if chosen.truth is None else _truth(chosen, models.full.labels)
    built, recorded = record(
        Clip(chosen.video, chosen.fps),
        [build, measured],
        models.full,
        models.base,
        advance=lambda done, of: _progress("recorded frames", done, of),
    )
    spec = SceneSpec(len(models.full.labels), "full", seed=str(chosen.seed))
    device = measure.OnDevice(models.stage, models.priors, models.least, models.answer_score)
    others = [_other(chosen, path, models.full) for path in chosen.against]
    found = measure.measure(built, recorded, network, spec, device, others, people, _progress)
    objects = sum(map(len, recorded.full)) / len(recorded)
    return {
        "video": chosen.video.name,
        "fps": recorded.fps,
        "frames": {"build": [build.start, build.stop], "measure": [measured.start, measured.stop]},
        "labels": list(models.full.labels),
        "link": chosen.link,
        "server_ms": chosen.server_ms,
        "late": found.about["late"],
        "seed": chosen.seed,
        "full": {"file": _file(models.full.path), "objects": round(objects, 3)},
        "base": {
            "file": _file(models.base.path),
            "ms": round(float(recorded.base_ms.mean()), 3),
            "score": found.about["score"],
        },
        "floor": found.floor,
        "policies": found.rows,
        "paired": found.paired,
        "budgets": found.budgets,
        "truth": found.truth,
    }


def _file(path: Path) -> str:
    """A model's file for reports; every file of a bundle has one name, in directories that differ."""
    return "/".join(path.parts[-3:]) if path.name == "model.onnx" else path.name


def _models(chosen: argparse.Namespace) -> Models:
    """The models of the flags, or else those of the bundle, with the labels that both have."""
    from cachenet.models.detect.build import common_labels  # with torch, which takes a second or two

    bundle = None if chosen.bundle is None else Bundle(zoo.find(chosen.bundle))
    if bundle is not None and bundle.manifest.task != "detection":
        raise UserError(f"{chosen.bundle} is a bundle of classifiers; give one of detectors")
    labels = None if chosen.labels is None else tuple(filter(None, map(str.strip, chosen.labels.split(","))))
    found = []
    roles: tuple[Literal["full", "base"], ...] = ("full", "base")
    for name, preprocessing in zip(roles, (chosen.preprocessing, chosen.base_preprocessing), strict=True):
        if (path := getattr(chosen, name)) is not None:
            found.append(load_detector(path, parse_preprocessing(preprocessing) if preprocessing else None, labels))
        elif bundle is not None:
            found.append(_of_bundle(bundle, name, labels, chosen.device))
        else:
            raise UserError(f"--{name} FILE.onnx is needed, or a --bundle with that model")
    full, base = common_labels(*found)
    own = bundle if chosen.base is None else None  # the bundle of the device's detector
    better = None if own is None else own.manifest.better_detector(chosen.device)
    stage: SceneStage = "base" if better is None else "submodel"
    priors = None if bundle is None else bundle.manifest.scene_priors or None
    if own is None:
        return Models(full, _lowered(base), stage, priors, None, None)
    device = own.manifest.models[better or own.manifest.only("base")]
    return Models(full, _lowered(base), stage, priors, base.decoder.score, device.answer_score)


def _lowered(base: DetectorModel) -> DetectorModel:
    """A detector of the device with all detections of some score."""
    recorded = msgspec.structs.replace(base.decoder, score=min(_LOW_SCORE, base.decoder.score))
    return replace(base, decoder=recorded)


def _other(chosen: argparse.Namespace, path: Path, full: DetectorModel) -> measure.Other:
    """Another detector, recorded on the same frames."""
    from cachenet.models.detect.build import common_labels

    whole, base = common_labels(full, load_detector(path, labels=full.labels if chosen.labels else None))
    if whole.labels != full.labels:
        raise UserError(f"--against {path}: does not find all of {', '.join(full.labels)}; give --labels")
    clip, ranges = Clip(chosen.video, chosen.fps), [chosen.build, chosen.measure]
    advance = lambda done, of: _progress(f"frames of {path.name}", done, of)  # noqa: E731
    return measure.Other(path.stem, *record(clip, ranges, full, _lowered(base), advance=advance))


def _of_bundle(
    bundle: Bundle, role: Literal["full", "base"], labels: tuple[str, ...] | None, device: str
) -> DetectorModel:
    """A model of a bundle, with these of its labels, None for all; for ``base`` the detector that ``device`` runs."""
    from cachenet.models.detect.build import with_labels

    manifest = bundle.manifest
    better = manifest.better_detector(device) if role == "base" else None
    name = better or manifest.only(role)
    entry = manifest.models[name]
    assert entry.decoder is not None  # as of every bundle of detectors
    if unknown := set(labels or ()) - set(manifest.labels):
        raise UserError(f"{bundle.directory} does not find {', '.join(sorted(unknown))}")
    loaded = load_detector(bundle.path(name), entry.input, manifest.labels, entry.decoder.kind)
    whole = replace(loaded, decoder=entry.decoder)
    return whole if labels is None else with_labels(whole, labels)


def _truth(chosen: argparse.Namespace, labels: tuple[str, ...]) -> measure.Truth:
    if truth.PERSON not in labels:
        raise UserError(f"--truth is of the label {truth.PERSON}, which the full model does not find")
    label = labels.index(truth.PERSON)
    return measure.Truth(label, truth.read(chosen.truth, chosen.measure, size_of(chosen.video), label))


def _progress(what: str, done: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\r\x1b[K{what}: {done} of {of}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

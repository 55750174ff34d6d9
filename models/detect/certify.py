"""Priors and certificates of a bundle of detectors: the device's own cascade, replayed over held-out footage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cachenet.models.certify.blocks import FEWEST, blocks
from cachenet.models.certify.certify import certificate_of
from cachenet.models.detect import agreement
from cachenet.models.detect.footage import Block, take
from cachenet.shared.bundle.manifest import Certificate
from cachenet.shared.cascade.detect.build_cascade import cascade_of
from cachenet.shared.cascade.detect.detections import Detections, pooled_f1
from cachenet.shared.cascade.detect.scene_features import SceneModel, SceneStage
from cachenet.shared.cascade.detect.scene_replay import SceneRun, SceneTrace, fit_scene_priors, run
from cachenet.shared.cascade.detect.spec import MAX_OBJECT_ERROR, SceneSpec
from cachenet.shared.cascade.detect.types import LocalDetector, SceneFrame
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.inference.detector import Detector
from cachenet.shared.media.flow import MotionDetector
from cachenet.shared.media.signature import sign

#: Budgets of the mean object error, each with a certificate of its own.
BUDGETS = (0.05, 0.10, 0.15, 0.20)
#: Frames from a question to its reply: two tenths of a second at ten frames a second, as over LTE.
DELAY = 2


@dataclass(frozen=True)
class SceneCertification:
    """Result of a certification; see ``Manifest``.

    Attributes:
        about: The footage, for the provenance.
        answer_scores: Of the detectors whose detections are answered as they are, by stage; see ``Model``.
    """

    priors: dict[SceneModel, RiskPrior]
    certificates: tuple[Certificate, ...]
    about: str
    answer_scores: dict[SceneStage, float]


def certify(
    detectors: Mapping[SceneStage, Detector],
    tune: Mapping[SceneStage, Sequence[Block]],
    prove: Block,
    runs: SceneStage,
    scores: Mapping[SceneStage, float],
) -> SceneCertification:
    """Fit priors on ``tune``, and certify the cascade of the detector that devices run on ``prove``.

    Whether tracks answer or the detections themselves is chosen on ``prove``, too: of two ways the better one.

    Args:
        detectors: The device's detectors by stage, with the thresholds of the bundle; ``base`` at least.
        tune: By stage, footage that this detector was not trained on.
        prove: Footage that nothing else was fitted on.
        runs: Stage of the detector that devices run.
        scores: By stage, the threshold with which the detector alone is best.

    Raises:
        EngineError: A detector does not run.
    """
    tuning: dict[SceneStage, list[SceneTrace]] = {}
    proving: dict[SceneStage, list[SceneTrace]] = {}
    answer_scores: dict[SceneStage, float] = {}
    for stage, detector in detectors.items():
        tuning[stage] = [one for block in tune[stage] for one in traces(detector, block)]
        proving[stage] = traces(detector, prove)
        if direct_is_better(tuning[stage], proving[stage], stage, scores[stage]):
            answer_scores[stage] = scores[stage]
            for several in (tuning, proving):
                several[stage] = [replace(one, answer_score=scores[stage]) for one in several[stage]]
    priors = _priors(tuning)
    count = sum(len(blocks(len(trace))) for trace in proving[runs])
    about = f"{len(prove)} frames in {len(proving[runs])} sequences, {count} blocks"
    certificates = tuple(certificate(proving[runs], priors, budget, runs) for budget in BUDGETS)
    if count < FEWEST:  # without a certificate, the priors may be fitted on all of the footage
        priors = _priors({stage: [*tuning[stage], *proving[stage]] for stage in detectors})
        about += "; too few to certify, so the priors are fitted on these, too"
    return SceneCertification(priors, certificates, about, answer_scores)


def direct_is_better(
    tuning: Sequence[SceneTrace], proving: Sequence[SceneTrace], stage: SceneStage, score: float
) -> bool:
    """Whether streaming F1 is as good or better where detections of at least ``score`` are answered as they are.

    Tracks help a detector that misses objects at times. One that finds what the full model finds loses by them, because
    each box is an average over frames.
    """
    f1 = []
    for answer_score in (None, score):
        first, second = ([replace(one, answer_score=answer_score) for one in each] for each in (tuning, proving))
        priors = fit_scene_priors(first, DELAY, stage=stage)
        counts = [_run(trace, priors, MAX_OBJECT_ERROR, stage).counts for trace in second]
        f1.append(pooled_f1(np.concatenate(counts)))
    return f1[1] >= f1[0]


def _run(trace: SceneTrace, priors: Mapping[SceneModel, RiskPrior], budget: float, stage: SceneStage) -> SceneRun:
    """The cascade of one detector over a trace, without audits."""
    spec = SceneSpec(_labels(trace), "full", priors, budget, audit_floor=0.0)
    detector = LocalDetector(stage, _recorded(trace.base), answer_score=trace.answer_score)
    return run(cascade_of(spec, detector, stage), trace, DELAY)


def _priors(footage: Mapping[SceneStage, Sequence[SceneTrace]]) -> dict[SceneModel, RiskPrior]:
    """The priors of each stage's own models, and of carried tracks from the base model's footage."""
    priors = fit_scene_priors(footage["base"], DELAY)
    if "submodel" in footage:
        own = fit_scene_priors(footage["submodel"], DELAY, stage="submodel")
        priors |= {name: prior for name, prior in own.items() if name.startswith("submodel")}
    return priors


def traces(detector: Detector, block: Block) -> list[SceneTrace]:
    """One trace for each sequence of a block, with the device's detections."""
    numbers = list(dict.fromkeys(block.sequences.tolist()))
    return [_trace(detector, take(block, np.flatnonzero(block.sequences == number))) for number in numbers]


def certificate(
    proving: Sequence[SceneTrace], priors: Mapping[SceneModel, RiskPrior], budget: float, stage: SceneStage
) -> Certificate:
    """Object error of the cascade with this budget, in asynchronous mode and without audits.

    Args:
        stage: Stage of the detections ``base`` of the traces.
    """
    errors: list[float] = []
    asked: list[float] = []
    for trace in proving:
        result = _run(trace, priors, budget, stage)
        for block in blocks(len(trace)):
            errors.append(float(result.errors[block].mean()))
            asked.append(float(result.asked[block].mean()))
    return certificate_of(errors, asked, budget)


def _trace(detector: Detector, block: Block) -> SceneTrace:
    motion = MotionDetector()
    frames, found = [], []
    for index, picture in enumerate(agreement.as_pictures(block.pictures)):
        moved, flow = motion.update(picture)
        frames.append(SceneFrame(index, index, sign(picture), moved, flow))
        found.append(detector(picture))
    return SceneTrace(frames, block.reference, found)


def _labels(trace: SceneTrace) -> int:
    return 1 + max((int(found.labels.max()) for found in (*trace.full, *trace.base) if len(found)), default=0)


def _recorded(found: Sequence[Detections]) -> Callable[[int], Detections]:
    """Recorded detections as the ``detect`` function of a model."""
    return lambda index: found[index]

"""Priors and certificates of a bundle of detectors: the device's own cascade, replayed over held-out footage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cachenet.models.certify.blocks import FEWEST, blocks
from cachenet.models.certify.certify import certificate_of
from cachenet.models.detect import agreement
from cachenet.models.detect.footage import Block, take
from cachenet.shared.bundle.manifest import Certificate
from cachenet.shared.cascade.detect.build_cascade import build_scene_cascade
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.detect.scene_features import SceneModel, SceneStage
from cachenet.shared.cascade.detect.scene_replay import SceneTrace, fit_scene_priors, run
from cachenet.shared.cascade.detect.spec import SceneSpec
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
    """Result of a certification; see ``Manifest``. ``about``: the footage, for the provenance."""

    priors: dict[SceneModel, RiskPrior]
    certificates: tuple[Certificate, ...]
    about: str


def certify(detectors: Mapping[SceneStage, Detector], tune: Sequence[Block], prove: Block) -> SceneCertification:
    """Fit priors on ``tune``, and certify the base model's cascade on ``prove``.

    Args:
        detectors: The device's detectors by stage, with the thresholds of the bundle; ``base`` at least.
        tune: Footage that no detector of the device was trained on.
        prove: Footage that nothing was fitted on.

    Raises:
        EngineError: A detector does not run.
    """
    base = [one for block in tune for one in traces(detectors["base"], block)]
    priors = fit_scene_priors(base, DELAY)
    proving = traces(detectors["base"], prove)
    count = sum(len(blocks(len(trace))) for trace in proving)
    about = f"{len(prove)} frames in {len(proving)} sequences, {count} blocks"
    certificates = tuple(certificate(proving, priors, budget) for budget in BUDGETS)
    if count < FEWEST:  # without a certificate, the priors may be fitted on all of the footage
        priors = fit_scene_priors([*base, *proving], DELAY)
        about += "; too few to certify, so the priors are fitted on these, too"
    if "submodel" in detectors:
        own = [one for block in (*tune, prove) for one in traces(detectors["submodel"], block)]
        fitted = fit_scene_priors(own, DELAY, stage="submodel")
        priors |= {name: prior for name, prior in fitted.items() if name.startswith("submodel")}
    return SceneCertification(priors, certificates, about)


def traces(detector: Detector, block: Block) -> list[SceneTrace]:
    """One trace for each sequence of a block, with the device's detections."""
    numbers = list(dict.fromkeys(block.sequences.tolist()))
    return [_trace(detector, take(block, np.flatnonzero(block.sequences == number))) for number in numbers]


def certificate(proving: Sequence[SceneTrace], priors: Mapping[SceneModel, RiskPrior], budget: float) -> Certificate:
    """Object error of the cascade with this budget, in asynchronous mode and without audits."""
    errors: list[float] = []
    asked: list[float] = []
    for trace in proving:
        spec = SceneSpec(_labels(trace), "full", priors, budget, audit_floor=0.0)
        result = run(build_scene_cascade(spec, LocalDetector("base", _recorded(trace.base))), trace, DELAY)
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

"""Certification: replays a bundle's cascade over footage that none of its models was trained on.

The device's own cascade is replayed from the beginning to the end of each sequence. It starts from the priors and
learns as it goes, as on a device. Blocks of consecutive frames are counted; the gaps between them are only replayed.
The bound on the mean disagreement of a block (``models.certify.bounds.mean_upper``) allows each block to depend on the
blocks before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig
from cachenet.models.certify import footage
from cachenet.models.certify.blocks import FEWEST, blocks
from cachenet.models.certify.bounds import mean_upper, shares_needed
from cachenet.models.certify.distribution import Look, fit_least, fit_quantiles, leaves
from cachenet.models.certify.traces import (
    ModelFamily,
    Models,
    RecordedStream,
    device_cascade,
    replay,
    uncertified_family,
)
from cachenet.models.data.dataset import LabelledFrames
from cachenet.shared.bundle.manifest import Certificate, Model
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.features import Stage
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.replay import Run, fit_priors
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT

#: Disagreement budgets, each with a certificate of its own.
BUDGETS = (0.005, 0.01, 0.02, 0.05)
#: Confidence of the bounds.
CONFIDENCE = 0.95
#: Parts of the certification footage, in order, for which agreement is reported.
_PARTS = 8
#: Drop of agreement from the tuning to the certification footage, as a share, from which the base model is overfitted.
_DROP = 0.05
_TUNING = "models on tuning footage"
_CERTIFYING = "models on certification footage"


class Certification(msgspec.Struct, frozen=True):
    """Result of a certification; see ``Manifest``. ``about``: entries of the provenance, by subject."""

    priors: dict[Stage, RiskPrior]
    certificates: tuple[Certificate, ...]
    distribution: Distribution
    entropy: float
    about: dict[str, str]


def certify(
    config: BuildConfig,
    tune: LabelledFrames,
    prove: LabelledFrames,
    models: Mapping[str, Model],
    sessions: Models,
    progress: Progress,
) -> Certification:
    """Fit priors on ``tune`` and certify on ``prove``.

    Streams are drawn from pictures in class directories if ``config`` has scenes; other frames are used as they come.
    """
    parts = ((tune, config.tuning_pools, _TUNING), (prove, config.pools, _CERTIFYING))
    drawn: list[list[RecordedStream]] = []
    if config.scenes and tune.truth is not None and prove.truth is not None:
        drawn = [
            footage.drawn(part, config.scenes, count, config.frames, config.seed, sessions, progress, title)
            for part, count, title in parts
        ]
    about = f"streams drawn of unrelated pictures by scenes ({', '.join(footage.DRAWN)})"
    if not drawn or not all(drawn):
        about = "footage as it came"
        drawn = [footage.sequences(part, sessions, progress, title) for part, _, title in parts]
    tuning, certifying = drawn
    return certify_recorded(tuning, certifying, uncertified_family(models), about, progress)


def certify_recorded(
    tuning: Sequence[RecordedStream],
    certifying: Sequence[RecordedStream],
    family: ModelFamily,
    about: str,
    progress: Progress,
) -> Certification:
    """Fit priors and quantiles on ``tuning``; certify and fit thresholds on ``certifying``. ``about``: its kind."""
    traces = [stream.trace(family) for stream in tuning]
    family = replace(family, priors=fit_priors(traces, family.temperatures, family.temperatures[family.base]))
    quantiles = fit_quantiles(
        np.concatenate([trace.full for trace in traces]), np.concatenate([trace.base for trace in traces])
    )
    runs = [replay(stream, family, device_cascade(stream, family)) for stream in certifying]
    looks = [_looks(stream, run, family) for stream, run in zip(certifying, runs, strict=True)]
    distribution = msgspec.structs.replace(quantiles, least=fit_least(quantiles, looks))
    family = replace(family, distribution=distribution)
    # A monitor that never finds a frame out of distribution changes no answer of a replay at the default budget.
    unchanged = [None if leaves(distribution, own) else run for own, run in zip(looks, runs, strict=True)]
    task = progress.add_task("certificates", total=len(BUDGETS))
    certificates = []
    for budget in BUDGETS:
        certificates.append(certificate(certifying, family, budget, unchanged if budget == MAX_DISAGREEMENT else None))
        progress.advance(task)
    progress.remove_task(task)
    frames = sum(map(len, certifying))
    about = f"{about}; {frames} frames in {len(certifying)} sequences, {certificates[0].blocks} blocks"
    priors = family.priors
    if certificates[0].blocks < FEWEST:  # without a certificate, the priors may be fitted on all of the footage
        traces += [stream.trace(family) for stream in certifying]
        priors = fit_priors(traces, family.temperatures, family.temperatures[family.base])
        about += "; too few to certify, so the priors are fitted on these, too"
    return Certification(
        dict(priors),
        tuple(certificates),
        distribution,
        entropy_threshold(certifying, family, MAX_DISAGREEMENT),
        {"certified on": about, **agreement(tuning, certifying, family)},
    )


def certificate(
    certifying: Sequence[RecordedStream],
    family: ModelFamily,
    budget: float,
    runs: Sequence[Run | None] | None = None,
) -> Certificate:
    """Disagreement of the cascade with this budget, without audits, on footage that nothing was fitted on.

    ``runs``: replays with this budget, one a stream; None where a stream is not replayed yet.
    """
    disagreed: list[float] = []
    asked: list[float] = []
    for stream, known in zip(certifying, runs or [None] * len(certifying), strict=True):
        run = known or replay(stream, family, device_cascade(stream, family, budget))
        wrong = disagreements(run.labels, stream.trace(family).labels)
        for block in blocks(len(stream)):
            disagreed.append(float(wrong[block].mean()))
            asked.append(float(run.asked[block].mean()))
    return certificate_of(disagreed, asked, budget)


def certificate_of(errors: Sequence[float], asked: Sequence[float], budget: float) -> Certificate:
    """The certificate of a budget.

    Args:
        errors: Mean error of the answers of each block: disagreement, or the object error of detectors.
        asked: Share of frames of each block that the full model was asked about.
    """
    count = len(errors)
    needed = shares_needed(errors, budget, CONFIDENCE)
    return Certificate(
        max_disagreement=budget,
        disagreement=round(float(np.mean(errors)), 5) if count else 0.0,
        at_most=min(1.0, round(mean_upper(errors, CONFIDENCE) + 5e-6, 5)) if count >= FEWEST else 1.0,
        confidence=CONFIDENCE,
        asked=round(float(np.mean(asked)), 5) if count else 0.0,
        blocks=count,
        blocks_needed=max(FEWEST, needed) if needed else 0,
    )


def entropy_threshold(certifying: Sequence[RecordedStream], family: ModelFamily, budget: float) -> float:
    """The threshold, nats, of CacheNet's rule as published (arXiv 2007.01793, section IV).

    The best submodel answers if the entropy of its softmax is at most the threshold; the full model answers otherwise.
    The best submodel is the one with the least entropy. A device cannot do better, because it has to fetch submodels.

    Returns:
        The largest threshold with which the disagreement of all answers is at most ``budget``; 0 without submodels.
    """
    special = [name for name in family.submodels if name not in family.general]
    if not special or not certifying:
        return 0.0
    entropies, wrong = [], []
    for stream in certifying:
        probabilities = np.stack([softmax(stream.logits[name], family.temperatures[name]) for name in special])
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)  # (models, n)
        best = entropy.argmin(0)
        rows = np.arange(len(stream))
        entropies.append(entropy[best, rows])
        wrong.append(disagreements(probabilities[best, rows].argmax(-1), stream.trace(family).labels))
    rounded, off = np.ceil(np.concatenate(entropies) * 1e4) / 1e4, np.concatenate(wrong)
    order = np.argsort(rounded, kind="stable")
    last = np.diff(rounded[order], append=np.inf) > 0  # a threshold admits all frames of its entropy
    within = (np.cumsum(off[order]) <= budget * len(rounded)) & last
    return round(float(rounded[order][within][-1]), 4) if within.any() else 0.0


def agreement(
    tuning: Sequence[RecordedStream], certifying: Sequence[RecordedStream], family: ModelFamily
) -> dict[str, str]:
    """Agreement of the base model with the full model on both kinds of footage, for the provenance.

    ``overfitted`` is among the entries if agreement drops clearly on the certification footage.
    """

    def agrees(streams: Sequence[RecordedStream]) -> npt.NDArray[np.bool_]:
        each = [one.logits[family.base].argmax(1) == one.logits[family.full].argmax(1) for one in streams]
        return np.concatenate(each) if each else np.zeros(0, np.bool_)

    before, after = agrees(tuning), agrees(certifying)
    if not len(before) or not len(after):
        return {}
    parts = [float(part.mean()) for part in np.array_split(after, min(_PARTS, len(after)))]
    shown = " ".join(f"{100 * part:.0f}" for part in parts)
    found = {
        "base agreement": f"{before.mean():.1%} of frames to tune with, {after.mean():.1%} of those to prove with "
        f"(by parts, in order: {shown})"
    }
    if float(before.mean() - after.mean()) > _DROP:
        found["overfitted"] = (
            f"the base model agrees with the full model on {before.mean():.1%} of the frames to tune with and on "
            f"{after.mean():.1%} of later ones: give frames of more hours to learn from"
        )
    return found


def _looks(stream: RecordedStream, run: Run, family: ModelFamily) -> list[list[Look]]:
    """The scores of each frame that a device's monitor sees, in order."""
    found: list[list[Look]] = []
    for index in range(len(stream)):
        looks: list[Look] = []
        if run.probes[index]:
            looks.append(("base", stream.logits[family.base][index]))
        if run.misses[index]:
            looks.append(("full", stream.logits[family.full][index]))
        found.append(looks)
    return found

"""Certification: what a bundle's cascade does on footage that none of its models was trained on.

The very cascade that runs on a device is replayed over held-out footage. Each sequence is played once from its
beginning to its end, from the priors and learning as it goes, for that is what a device does: it starts once and then
runs for months. Blocks of consecutive frames are counted, the gaps between them are played and not counted. The bound
on the mean disagreement of a block (``models.certify.bounds.mean_upper``) allows each block to depend on those before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig
from cachenet.models.certify import footage, recorded, replay
from cachenet.models.certify.blocks import FEWEST, blocks
from cachenet.models.certify.bounds import mean_upper, shares_needed
from cachenet.models.certify.distribution import Look, fit_least, fit_quantiles
from cachenet.models.certify.replay import Family, Recorded
from cachenet.models.data.dataset import LabelledFrames
from cachenet.shared.bundle.manifest import Certificate, Model
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.features import Stage
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.replay import Run, fit_priors
from cachenet.shared.cascade.risk_model import RiskPrior
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT

#: Budgets that are certified, each by itself.
BUDGETS = (0.005, 0.01, 0.02, 0.05)
CONFIDENCE = 0.95
#: Parts of the proving footage, in order, that agreement is told of; and by how much, as a share, it may be less there
#: than on the tuning footage before the base model counts as overfitted.
_PARTS, _DROP = 8, 0.05
_TUNING, _PROVING = "models on footage to tune with", "models on footage to prove with"


class Certified(msgspec.Struct, frozen=True):
    """What was found; see ``Manifest``. ``about``: for people, by what it is about."""

    priors: dict[Stage, RiskPrior]
    certificates: tuple[Certificate, ...]
    distribution: Distribution
    entropy: float
    about: dict[str, str]


def certify(
    plan: BuildConfig,
    tune: LabelledFrames,
    prove: LabelledFrames,
    models: Mapping[str, Model],
    sessions: recorded.Models,
    progress: Progress,
) -> Certified:
    """Fit priors on ``tune`` and certify on ``prove``. Pictures in a folder for each label, where the user says which
    labels come together, are no footage of a place: streams are drawn of them."""
    family = replay.family_of(models)
    about, tuned, proven = "", [], []
    if plan.scenes and tune.truth is not None and prove.truth is not None:
        about = f"streams drawn of unrelated pictures by --scenes ({', '.join(footage.DRAWN)})"
        tuned, proven = (
            footage.drawn(part, plan.scenes, count, plan.frames, plan.seed, sessions, progress, title)
            for part, count, title in ((tune, plan.tuning_pools, _TUNING), (prove, plan.pools, _PROVING))
        )
    if not tuned or not proven:
        about = "footage as it came"
        tuned, proven = (
            footage.sequences(part, sessions, progress, title) for part, title in ((tune, _TUNING), (prove, _PROVING))
        )
    return find(tuned, proven, family, about, progress)


def find(
    tuned: Sequence[Recorded], proven: Sequence[Recorded], family: Family, about: str, progress: Progress
) -> Certified:
    """The same of recorded footage: ``tuned`` for priors and quantiles, ``proven`` for everything that is certified."""
    traces = [stream.trace(family) for stream in tuned]
    family = replace(family, priors=fit_priors(traces, family.temperatures, family.temperatures[family.base]))
    quantiles = fit_quantiles(
        np.concatenate([trace.full for trace in traces]), np.concatenate([trace.base for trace in traces])
    )
    played = [replay.run(stream, family, replay.cascade(stream, family)) for stream in proven]
    least = fit_least(quantiles, (_looks(stream, run, family) for stream, run in zip(proven, played, strict=True)))
    family = replace(family, distribution=msgspec.structs.replace(quantiles, least=least))
    assert family.distribution is not None
    task = progress.add_task("certificates", total=len(BUDGETS))
    certificates = []
    for budget in BUDGETS:
        certificates.append(certificate(proven, family, budget))
        progress.advance(task)
    progress.remove_task(task)
    frames = sum(map(len, proven))
    about = f"{about}; {frames} frames in {len(proven)} sequences, {certificates[0].blocks} blocks"
    priors = family.priors
    if certificates[0].blocks < FEWEST:  # nothing is certified that a start from all of the footage could take back
        traces += [stream.trace(family) for stream in proven]
        priors = fit_priors(traces, family.temperatures, family.temperatures[family.base])
        about += "; too few to certify, so the priors are fitted on these, too"
    return Certified(
        dict(priors),
        tuple(certificates),
        family.distribution,
        entropy_threshold(proven, family, MAX_DISAGREEMENT),
        {"certified on": about, **agreement(tuned, proven, family)},
    )


def certificate(proven: Sequence[Recorded], family: Family, budget: float) -> Certificate:
    """What the cascade does with this budget, without audits, on footage that nothing was fitted on."""
    disagreed: list[float] = []
    asked: list[float] = []
    for stream in proven:
        run = replay.run(stream, family, replay.cascade(stream, family, budget))
        wrong = disagreements(run.labels, stream.trace(family).labels)
        for block in blocks(len(stream)):
            disagreed.append(float(wrong[block].mean()))
            asked.append(float(run.asked[block].mean()))
    count = len(disagreed)
    return Certificate(
        max_disagreement=budget,
        disagreement=round(float(np.mean(disagreed)), 5) if count else 0.0,
        at_most=min(1.0, round(mean_upper(disagreed, CONFIDENCE) + 5e-6, 5)) if count >= FEWEST else 1.0,
        confidence=CONFIDENCE,
        asked=round(float(np.mean(asked)), 5) if count else 0.0,
        blocks=count,
        blocks_needed=_needed(disagreed, budget),
    )


def _needed(disagreed: Sequence[float], budget: float) -> int:
    needed = shares_needed(disagreed, budget, CONFIDENCE)
    return max(FEWEST, needed) if needed else 0


def entropy_threshold(proven: Sequence[Recorded], family: Family, budget: float) -> float:
    """The threshold, nats, of CacheNet's rule as published (arXiv 2007.01793, section IV): the best submodel answers
    where the entropy of its softmax is at most this, and the full model elsewhere. The largest at which disagreement of
    all answers stays within the budget; 0 where there are no submodels. The best is the one of least entropy, which is
    better than a device is off, whose submodels have to be fetched."""
    special = [name for name in family.submodels if name not in family.general]
    if not special or not proven:
        return 0.0
    entropies, wrong = [], []
    for stream in proven:
        probabilities = np.stack([softmax(stream.logits[name], family.temperatures[name]) for name in special])
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(-1)  # (models, n)
        best = entropy.argmin(0)
        rows = np.arange(len(stream))
        entropies.append(entropy[best, rows])
        wrong.append(disagreements(probabilities[best, rows].argmax(-1), stream.trace(family).labels))
    every, off = np.ceil(np.concatenate(entropies) * 1e4) / 1e4, np.concatenate(wrong)
    order = np.argsort(every, kind="stable")
    last = np.diff(every[order], append=np.inf) > 0  # a threshold lets in all frames of its entropy
    within = (np.cumsum(off[order]) <= budget * len(every)) & last
    return round(float(every[order][within][-1]), 4) if within.any() else 0.0


def agreement(tuned: Sequence[Recorded], proven: Sequence[Recorded], family: Family) -> dict[str, str]:
    """How often the base model says what the full model says: on the tuning footage, and on the proving footage by
    parts in order. ``overfitted``: that it is clearly less there."""

    def agrees(streams: Sequence[Recorded]) -> npt.NDArray[np.bool_]:
        each = [one.logits[family.base].argmax(1) == one.logits[family.full].argmax(1) for one in streams]
        return np.concatenate(each) if each else np.zeros(0, np.bool_)

    before, after = agrees(tuned), agrees(proven)
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


def _looks(stream: Recorded, run: Run, family: Family) -> Iterator[Sequence[Look]]:
    """The scores that a device's monitor sees of each frame, in order."""
    for index in range(len(stream)):
        looks: list[Look] = []
        if run.looks[index]:
            looks.append(("base", stream.logits[family.base][index]))
        if run.full_answered[index]:
            looks.append(("full", stream.logits[family.full][index]))
        yield looks

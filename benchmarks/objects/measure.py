"""All policies on the measured frames, with settings from the build frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.objects import choice
from benchmarks.objects.choice import Tried
from cachenet.models.certify import intervals
from cachenet.shared.cascade.detect.detections import Detections, counts, pooled_f1
from cachenet.shared.cascade.detect.scene_features import ScenePriors, SceneStage
from cachenet.shared.cascade.detect.spec import CANDIDATES, MAX_OBJECT_ERROR, SceneSpec
from cachenet.simulator.policies import scene, scene_cachenet
from cachenet.simulator.policies.scene import Device
from cachenet.simulator.policies.scene_cachenet import CacheNet
from cachenet.simulator.policies.scene_run import Network, PolicyRun, run
from cachenet.simulator.traces.scene_recording import SceneRecording

#: CacheNet's own policy, with the default risk budget.
CACHENET = "cachenet"
#: Risk budgets of CacheNet.
BUDGETS = (0.02, 0.05, MAX_OBJECT_ERROR, 0.15, 0.2, 0.3)
#: Risk budgets that must be kept.
STATED = (0.10, 0.15)

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Truth:
    """True boxes of each measured frame, all of one label."""

    label: int
    boxes: Sequence[Detections]


@dataclass(frozen=True)
class OnDevice:
    """The cascade on the device.

    Attributes:
        stage: What its detector is.
        priors: Priors of the risk models; None: from the build frames.
        least: Least score of a candidate; None: from the build frames, as a build chooses it.
        answer_score: See ``LocalDetector``.
    """

    stage: SceneStage = "base"
    priors: ScenePriors | None = None
    least: float | None = None
    answer_score: float | None = None


@dataclass(frozen=True, eq=False)
class Other:
    """Another detector of the device, recorded on the build frames and on the measured ones."""

    name: str
    build: SceneRecording
    measured: SceneRecording


@dataclass(frozen=True, eq=False)
class Measured:
    """The result on one clip.

    Attributes:
        rows: Measures by policy, as in the JSON.
        paired: CacheNet against each other policy, as in the JSON.
        budgets: CacheNet's object error by stated budget, as in the JSON.
        floor: Every frame asked and carried, as in the JSON.
        about: Score threshold of the device's detector and usual delay of a reply, frames.
        truth: Against true boxes, as in the JSON; None without them.
    """

    rows: dict[str, Row]
    paired: dict[str, Row]
    budgets: dict[str, Row]
    floor: Row
    about: Row
    truth: Row | None


def measure(
    build: SceneRecording,
    measured: SceneRecording,
    network: Network,
    spec: SceneSpec,
    device: OnDevice,
    others: Sequence[Other] = (),
    truth: Truth | None = None,
    advance: Callable[[str, int, int], object] = lambda _what, _done, _of: None,
) -> Measured:
    """Run all policies.

    Args:
        build: Recording of the build frames, from which all settings and priors come.
        measured: Recording of the measured frames.
        network: Link and server.
        spec: Parameters of the cascade, but budget and priors.
        device: The cascade on the device.
        others: Other detectors of the device, each with the same cascade, and all from the build frames.
        truth: True boxes of the measured frames; None for none.
        advance: Called with the name of a policy, and the number of its runs done and of all.
    """
    score = choice.best_score(build, network)
    families = choice.families(score)
    of = sum(len(family.settings) for family in families) + len(BUDGETS)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        advance(what, done, of)

    found = {
        family.name: choice.tried(family, build, measured, network, lambda name=family.name: step(name))  # type: ignore[misc]
        for family in families
    }
    server = found["server-only"][0]
    late = round(float(np.median(server.build.delays))) if server.build.delays else 1
    least = CANDIDATES * score if device.least is None else device.least
    priors = device.priors
    if priors is None:
        priors = scene_cachenet.priors(_candidates(build, least), late)
    own: dict[float, tuple[PolicyRun, CacheNet]] = {}
    for budget in BUDGETS:
        budgeted = replace(spec, priors=priors, max_object_error=budget)
        own[budget] = _cachenet(budgeted, _candidates(measured, least), network, device)
        step(CACHENET)
    default = own[MAX_OBJECT_ERROR][0]
    rows = {
        CACHENET if budget == MAX_OBJECT_ERROR else f"{CACHENET}@{budget:g}": _row(
            result, {"max_object_error": budget}, network
        )
        for budget, (result, _) in sorted(own.items(), key=lambda pair: pair[0] != MAX_OBJECT_ERROR)
    }
    rows[CACHENET]["curve"] = _curve([result for result, _ in own.values()])
    for name, tries in found.items():
        nearest = min(tries, key=lambda one: abs(one.measured.asked_share - default.asked_share))
        rows[name] = _row(nearest.measured, nearest.setting, network)
        rows[name]["curve"] = _curve([one.measured for one in tries])
        if tries[-1] is not nearest:
            rows[f"{name}@best"] = _row(tries[-1].measured, tries[-1].setting, network)
    rivals = {f"{CACHENET} with {other.name}": _rival(other, network, spec, late) for other in others}
    for name, tries in rivals.items():
        nearest = min(tries, key=lambda one: abs(one.measured.asked_share - default.asked_share))
        rows[name] = _row(nearest.measured, nearest.setting, network)
        rows[name]["curve"] = _curve([one.measured for one in tries])
    floor = run(choice.maker(scene.Carry, {"n": 1}), measured, network)
    return Measured(
        rows=rows,
        paired={name: paired(default, tries, network.seed) for name, tries in (found | rivals).items()},
        budgets={f"{budget:g}": _budget(*own[budget], budget, floor) for budget in STATED},
        floor={"streaming_f1": _rounded(floor.streaming_f1), "object_error": _rounded(floor.errors.mean())},
        about={"score": score, "late": late},
        truth=None if truth is None else _truth(default, measured, truth),
    )


def _rival(other: Other, network: Network, spec: SceneSpec, late: int) -> list[Tried]:
    """The cascade with another detector at each risk budget; its threshold and priors come from the build frames."""
    least = CANDIDATES * choice.best_score(other.build, network)
    priors = scene_cachenet.priors(_candidates(other.build, least), late)
    candidates = _candidates(other.measured, least)
    tries = []
    for budget in BUDGETS:
        run_, _ = _cachenet(replace(spec, priors=priors, max_object_error=budget), candidates, network)
        tries.append(Tried({"max_object_error": budget}, run_, run_))
    return tries


def paired(own: PolicyRun, others: Sequence[Tried], seed: int) -> Row:
    """F1 of ``own`` minus that of another policy at an equal share of questions.

    The other policy's F1 is interpolated between the two settings around that share. Where all its settings ask more,
    or fewer, it is that of the setting that comes nearest.
    """
    ordered = sorted((one.measured for one in others), key=lambda one: one.asked_share)
    shares = np.array([one.asked_share for one in ordered])
    after = int(np.searchsorted(shares, own.asked_share))
    low, high = max(after - 1, 0), min(after, len(ordered) - 1)
    span = shares[high] - shares[low]
    weight = float((own.asked_share - shares[low]) / span) if span > 0 else 0.0
    pair, weights = (ordered[low], ordered[high]), (1 - weight, weight)
    value, within = intervals.difference(own.counts, [one.counts for one in pair], weights, seed)
    theirs = sum(one.streaming_f1 * share for one, share in zip(pair, weights, strict=True))
    return {
        "difference": _rounded(value),
        "interval": within,
        "asked": _rounded(own.asked_share),
        "other_asked": _rounded(np.dot(weights, [one.asked_share for one in pair])),
        "other_f1": _rounded(theirs),
    }


def _candidates(recording: SceneRecording, least: float) -> SceneRecording:
    """The recording with the candidates of a bundle: detections of at least this score."""
    return replace(recording, base=[scene.above(found, least) for found in recording.base])


def _cachenet(
    spec: SceneSpec, measured: SceneRecording, network: Network, own: OnDevice | None = None
) -> tuple[PolicyRun, CacheNet]:
    made: list[CacheNet] = []

    def make(device: Device) -> CacheNet:
        made.append(CacheNet(device, spec, *((own.stage, own.answer_score) if own is not None else ())))
        return made[-1]

    return run(make, measured, network), made[0]


def _row(result: PolicyRun, setting: choice.Setting, network: Network) -> Row:
    share = {level: _rounded(count / len(result.levels)) for level, count in Counter(result.levels).most_common()}
    return {
        "streaming_f1": _rounded(result.streaming_f1),
        "interval": intervals.interval(result.counts, network.seed),
        "object_error": _rounded(result.errors.mean()),
        "asked": _rounded(result.asked_share),
        "kb_up_s": round(result.kb_up_s, 2),
        "device_ms": round(float(result.device_ms.mean()), 3),
        "levels": share,
        "setting": dict(setting),
    }


def _curve(runs: Sequence[PolicyRun]) -> list[list[float]]:
    """``[asked, streaming F1]`` of each run, sorted."""
    return sorted([_rounded(one.asked_share), _rounded(one.streaming_f1)] for one in runs)


def _budget(result: PolicyRun, policy: CacheNet, budget: float, floor: PolicyRun) -> Row:
    """How often blocks of frames keep a budget, and whether the device states that questions cannot keep it."""
    blocks = intervals.block_means(result.errors)
    stated = policy.cascade.floor
    return {
        "object_error": _rounded(result.errors.mean()),
        "blocks": len(blocks),
        "within": _rounded((blocks <= budget).mean()),
        "floor_within": _rounded((intervals.block_means(floor.errors) <= budget).mean()),
        "stated_floor": None if stated is None else _rounded(stated),
        "unattainable": policy.cascade.unattainable,
    }


def _truth(own: PolicyRun, measured: SceneRecording, truth: Truth) -> Row:
    """F1 of CacheNet and of the full model's own single frames against true boxes of one label."""

    def f1_of(answers: Sequence[Detections]) -> float:
        named = [answer.take(answer.labels == truth.label) for answer in answers]
        return _rounded(pooled_f1(np.array([counts(*pair) for pair in zip(named, truth.boxes, strict=True)])))

    return {CACHENET: f1_of(own.answers), "full": f1_of(measured.full)}


def _rounded(value: Any) -> float:
    return round(float(value), 5)

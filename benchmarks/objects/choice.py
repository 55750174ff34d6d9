"""The policies of the comparison, and the choice of their settings on the build frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cachenet.simulator.policies import scene
from cachenet.simulator.policies.scene import Device, Maker, ScenePolicy
from cachenet.simulator.policies.scene_run import Network, PolicyRun, run
from cachenet.simulator.traces.scene_recording import SceneRecording

#: Parameters of a policy by name.
Setting = Mapping[str, float]

#: Thresholds on the score of the device's detector.
_SCORES = np.arange(0.1, 0.96, 0.025).round(3).tolist()
#: Frames from one question to the next.
_EVERY = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100)
#: Frames from one run of the device's detector to the next.
_EDGE = (1, 2)
#: Amounts added to the threshold of the device's detector for the beginning of a track.
_RAISED = (0.0, 0.1)
#: Mean squares of a picture's difference, squared grey levels.
_LIMITS = np.geomspace(0.5, 2000, 16).round(2).tolist()
#: Shares of changed cells.
_CELLS = (0.0, 0.01, 0.02, 0.05, 0.1)
#: Errors from which the oracle asks; the last asks never.
_ERRORS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Tried:
    """A policy with one setting: its runs on the build frames and, once it is chosen, on the measured ones."""

    setting: Setting
    build: PolicyRun
    measured: PolicyRun


@dataclass(frozen=True)
class Family:
    """A policy and the settings to try. ``make`` takes the device and a setting."""

    name: str
    make: Callable[..., ScenePolicy]
    settings: Sequence[Setting]


def families(score: float) -> list[Family]:
    """All policies beside the cascade; ``score``: threshold of the device's detector."""
    react: list[Setting] = [
        {"edge": edge, "cloud": cloud, "score": score, "begins": round(score + more, 3)}
        for cloud in (*_EVERY, 0)
        for edge in _EDGE
        for more in _RAISED
    ]
    return [
        Family("server-only", scene.Hold, [{"n": 1}]),
        Family("device-base", scene.DeviceBase, [{"score": score}]),
        Family("hold", scene.Hold, [{"n": n} for n in _EVERY]),
        Family("carry", scene.Carry, [{"n": n} for n in _EVERY]),
        Family("difference", scene.Difference, [{"limit": limit} for limit in _LIMITS]),
        Family("motion", scene.Motion, [{"score": score, "cells": cells} for cells in _CELLS]),
        Family("react", scene.React, react),
        Family("oracle", scene.Oracle, [{"limit": limit} for limit in _ERRORS]),
    ]


def best_score(build: SceneRecording, network: Network) -> float:
    """The threshold with which the device's detector alone has the best F1 on the build frames."""
    found = [(run(maker(scene.DeviceBase, {"score": score}), build, network).streaming_f1, score) for score in _SCORES]
    return float(max(found)[1])


def maker(make: Callable[..., ScenePolicy], setting: Setting) -> Maker:
    """Makes the policy with ``setting``."""

    def make_for(device: Device) -> ScenePolicy:
        return make(device, **setting)

    return make_for


def tried(
    family: Family,
    build: SceneRecording,
    measured: SceneRecording,
    network: Network,
    advance: Callable[[], object] = lambda: None,
) -> list[Tried]:
    """The settings that no other one is better than on the build frames, with fewer or as many questions.

    Returns:
        The settings by increasing share of questions on the build frames, each with a better F1 than the one before.
    """
    runs = []
    for setting in family.settings:
        runs.append((setting, run(maker(family.make, setting), build, network)))
        advance()
    chosen: list[Tried] = []
    for setting, own in sorted(runs, key=lambda pair: (pair[1].asked_share, -pair[1].streaming_f1)):
        if not chosen or own.streaming_f1 > chosen[-1].build.streaming_f1:
            chosen.append(Tried(setting, own, run(maker(family.make, setting), measured, network)))
    return chosen

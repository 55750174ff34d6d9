"""Links that vary: a Markov chain over the simulator's link profiles, and the times of questions over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.models.export.cost import Cost
from cachenet.simulator.world import hardware_profiles, link_profiles
from cachenet.simulator.world.device import REQUEST
from cachenet.simulator.world.link_direction import directions

Floats = npt.NDArray[np.float64]

#: Profiles that a link changes between.
STATES = ("wifi", "lte", "3g", "lossy")
#: Mean time that a link stays in a state, seconds.
DWELL_S = 12.0
#: Frames, and slots of a link, in a second.
FPS = 5.0
#: Time from a lookup to the latest reply, seconds: the default of ``CascadeSpec``.
DEADLINE_S = 1.0
#: A full model of 1.8e9 multiply-adds (ResNet-18 at 224 pixels, by which the device profiles are measured).
FULL = Cost(macs=1_814_000_000, operators=50, int8=False)
#: A base model with a twelfth of these multiply-adds, as ``benchmarks.real_tasks`` builds them.
BASE = Cost(macs=FULL.macs // 12, operators=50, int8=False)
#: Bytes of an answer, headers included.
_ANSWER = 400
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Durations:
    """Times on the device, seconds: of a frame without models, of each model on all threads, of encoding a picture."""

    frame: float
    base: float
    full: float
    encode: float


def durations(name: str) -> Durations:
    """The times of the device profile ``name``."""
    profile = hardware_profiles.device(name)
    threads = profile.threads
    return Durations(
        (profile.frame_ms + profile.decision_ms) / 1e3,
        profile.seconds(BASE, threads),
        profile.seconds(FULL, threads),
        profile.encode_ms / 1e3,
    )


def draw(slots: int, seed: int) -> npt.NDArray[np.int64]:
    """State of a link in each slot of 1 / FPS seconds ``(slots,)``, as an index of ``STATES``."""
    rng = np.random.default_rng(seed)
    states: list[int] = []
    state = int(rng.integers(len(STATES)))
    while len(states) < slots:
        states += [state] * max(1, round(rng.exponential(DWELL_S) * FPS))
        state = (state + int(rng.integers(1, len(STATES)))) % len(STATES)
    return np.array(states[:slots])


def question_times(states: npt.NDArray[np.int64], nbytes: npt.NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    """Times of a question that is sent in each slot over a free line.

    Jitter, losses and outages are those of the emulator. They are drawn for each slot, so that they are the same for
    every policy.

    Args:
        states: State of the link ``(slots,)``.
        nbytes: Size of the picture at each precision ``(slots, precisions)``.
        seed: Seed of the draws.

    Returns:
        Time until the reply, and until the line is free again, seconds ``(slots, precisions)`` each.
    """
    server = hardware_profiles.server("cpu")
    there_s = server.seconds(FULL, 1) + 2 * server.broker_ms / 1e3
    known = [link_profiles.load(name) for name in STATES]
    phase_s = float(np.random.default_rng(seed).uniform(0, _MINUTE_S))
    total, line = np.zeros(nbytes.shape), np.zeros(nbytes.shape)
    for slot, (state, sizes) in enumerate(zip(states.tolist(), nbytes.tolist(), strict=True)):
        profile = known[state]
        down_s = max(0.0, profile.outage_s - (slot / FPS + phase_s) % _MINUTE_S)
        for precision, size in enumerate(sizes):
            up, down = directions(profile, seed * 100_003 + slot)
            arrived = up.schedule(down_s, size + REQUEST)
            total[slot, precision] = down.schedule(arrived + there_s, _ANSWER)
            line[slot, precision] = up.line_free
    return total, line

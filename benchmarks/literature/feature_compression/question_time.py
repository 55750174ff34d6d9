"""Time of a question: device, link, server and the way back, with the simulator's profiles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import simpy

from cachenet.models.export.cost import Cost
from cachenet.simulator.world import hardware_profiles, link_profiles
from cachenet.simulator.world.device import REQUEST
from cachenet.simulator.world.link import Link
from cachenet.simulator.world.link_direction import directions

#: Seconds between two questions.
_BETWEEN_S = 1.5
#: Size of an answer with its headers, bytes.
_ANSWER = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """What a question costs besides the link.

    Attributes:
        device_s: Time of the device before sending, seconds.
        server_s: Time of the server, with the broker, seconds.
    """

    device_s: float
    server_s: float


def picture_work(full: Cost, device: str, server: str) -> Work:
    """The device compresses a picture; the server runs the full model."""
    own, other = hardware_profiles.device(device), hardware_profiles.server(server)
    return Work(own.encode_ms / 1e3, other.seconds(full, 1) + 2 * other.broker_ms / 1e3)


def feature_work(layers: Cost, encoder: Cost, rest: Cost, device: str, server: str) -> Work:
    """The device runs its layers and the encoder, and codes as long as it compresses a picture; the server runs decoder
    and rest."""
    own, other = hardware_profiles.device(device), hardware_profiles.server(server)
    return Work(
        own.seconds(layers) + own.seconds(encoder) + own.encode_ms / 1e3,
        other.seconds(rest, 1) + 2 * other.broker_ms / 1e3,
    )


def times(nbytes: Floats, work: Work, link: str, questions: int) -> Floats:
    """Times of questions, seconds, ``(questions,)``.

    Args:
        nbytes: Bytes of pictures or features, used in turn ``(n,)``.
        work: Work of device and server.
        link: Name of a link profile.
        questions: Number of questions.
    """
    env, profile = simpy.Environment(), link_profiles.load(link)
    up, down = (Link(env, direction, profile.outage_s) for direction in directions(profile, 0))
    found = np.zeros(questions)

    def ask(number: int, _event: object) -> None:
        up.carry(int(nbytes[number % len(nbytes)]) + REQUEST, lambda: serve(number))

    def serve(number: int) -> None:
        env.timeout(work.server_s).callbacks.append(lambda _: down.carry(_ANSWER, lambda: answered(number)))

    def answered(number: int) -> None:
        found[number] = env.now - number * _BETWEEN_S

    for number in range(questions):
        started = env.timeout(number * _BETWEEN_S + work.device_s)
        started.callbacks.append(partial(ask, number))
    env.run()
    return found


def speedup(features: Floats, pictures: Floats) -> dict[str, object]:
    """Mean time of picture questions over that of feature questions, with a 95 % bootstrap interval, and the medians'.

    Both have the same questions, so the bootstrap draws pairs.
    """
    rng = np.random.default_rng(0)
    rows = rng.integers(len(features), size=(1000, len(features)))
    drawn = pictures[rows].mean(1) / features[rows].mean(1)
    return {
        "mean": round(float(pictures.mean() / features.mean()), 3),
        "interval": [round(float(one), 3) for one in np.quantile(drawn, (0.025, 0.975))],
        "median": round(float(np.median(pictures) / np.median(features)), 3),
    }

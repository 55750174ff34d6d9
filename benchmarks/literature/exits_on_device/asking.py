"""Time and energy of a decision: the device's work, and a question to the server, by the simulator's profiles."""

from __future__ import annotations

from dataclasses import dataclass

from cachenet.models.export.cost import Cost
from cachenet.simulator.world import hardware_profiles, link_profiles
from cachenet.simulator.world.device import REQUEST
from cachenet.simulator.world.hardware_profiles import DeviceProfile

#: Size of an answer with its headers, bytes: the simulator's for ten labels.
_ANSWER = 260


@dataclass(frozen=True)
class Question:
    """A question to the server over an empty link, without jitter and loss.

    Attributes:
        up_s, down_s: Time in which the device sends and receives, seconds.
        wait_s: The rest of the time until the answer, seconds.
        encode_s: Time to encode the picture, seconds.
    """

    up_s: float
    down_s: float
    wait_s: float
    encode_s: float

    @property
    def seconds(self) -> float:
        """Time from the end of the local models to the answer."""
        return self.encode_s + self.up_s + self.wait_s + self.down_s


def question(device: DeviceProfile, link: str, full: Cost, picture: int) -> Question:
    """A question about a picture of ``picture`` bytes to a full model of cost ``full`` on the server ``cpu``."""
    profile, server = link_profiles.load(link), hardware_profiles.server("cpu")
    wait = profile.rtt_ms / 1e3 + 2 * server.broker_ms / 1e3 + server.seconds(full, 1)
    up, down = (
        8 * size / (rate * 1e6) for size, rate in ((picture + REQUEST, profile.up_mbit), (_ANSWER, profile.down_mbit))
    )
    return Question(up, down, wait, device.encode_ms / 1e3)


def around_s(device: DeviceProfile) -> float:
    """Time of a frame without models: its handling, its signature and the decision, seconds."""
    return (device.frame_ms + device.decision_ms) / 1e3


def joules(device: DeviceProfile, work_s: float, asked: float, ask: Question) -> float:
    """Mean energy of a decision.

    Args:
        device: Its profile, with watts.
        work_s: Mean time of local models and of the work around them, seconds.
        asked: Share of decisions that ask.
        ask: A question.
    """
    watts = device.watts
    assert watts is not None, "a device of known power"
    waiting = (ask.up_s + ask.down_s + ask.wait_s) * watts.idle + ask.up_s * watts.send + ask.down_s * watts.receive
    return watts.busy * (work_s + asked * ask.encode_s) + asked * waiting

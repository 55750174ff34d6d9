"""A full detector behind a link: when its replies arrive."""

from __future__ import annotations

from functools import partial

import simpy

from cachenet.simulator.world.device import REQUEST
from cachenet.simulator.world.link import Link, after
from cachenet.simulator.world.link_direction import directions
from cachenet.simulator.world.link_profiles import LinkProfile

#: Size of a reply without objects: topic, properties, header of the message, MQTT and TCP headers, bytes.
_REPLY = 200
#: Size of an object in a reply: four float32, one uint16 and one float32, bytes.
_OBJECT = 22
#: Time within which events count as simultaneous, seconds.
_NOW_S = 1e-6


class RemoteDetector:
    """The server of one device, on virtual time that starts at 0. It answers questions in order, each in the same time.

    Nothing is queued on the device: while the line is busy with the picture of one question, no other is sent.

    Attributes:
        bytes_up: Bytes sent by the device.

    Example:
        server = RemoteDetector(link_profiles.load("lte"), server_s=0.05, seed=0)
        server.send(frame=0, nbytes=40_000, objects=3, now=0.0)
        server.arrived(now=0.2)  # [0]
    """

    def __init__(self, link: LinkProfile, server_s: float, seed: int) -> None:
        """``server_s``: time from a question's arrival at the server to its reply, seconds."""
        self._env = simpy.Environment()
        up, down = directions(link, seed)
        self._up, self._down = (Link(self._env, one, link.outage_s) for one in (up, down))
        self._server_s = server_s
        self._arrived: list[int] = []

    @property
    def bytes_up(self) -> int:
        return self._up.bytes

    def send(self, frame: int, nbytes: int, objects: int, now: float) -> bool:
        """Ask about a frame whose picture has ``nbytes`` bytes, and in which the full model finds ``objects``.

        Returns:
            Whether the question was sent.
        """
        if now > self._env.now:
            self._env.run(until=now)
        if self._up.busy:
            return False
        answer = partial(self._down.carry, _REPLY + _OBJECT * objects, partial(self._arrived.append, frame))
        self._up.carry(REQUEST + nbytes, lambda: after(self._env, self._server_s, answer))
        return True

    def arrived(self, now: float) -> list[int]:
        """Frames whose replies have arrived by ``now`` and since the last call, in order of arrival."""
        self._env.run(until=max(now, self._env.now) + _NOW_S)
        frames, self._arrived[:] = self._arrived[:], []
        return frames

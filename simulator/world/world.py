"""The world of a replay, on virtual time: devices, their links, a broker and the servers behind it.

Nothing is decided here, nor in what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable

import simpy

from cachenet.models.export.cost import Cost
from cachenet.shared.cascade.types import Answer
from cachenet.simulator.policies.policies import Policy, PolicyInputs
from cachenet.simulator.world.device import Device, Setting
from cachenet.simulator.world.servers import Servers


def play(
    policy: Policy,
    kits: list[PolicyInputs],
    setting: Setting,
    full: Cost,
    seed: int,
    replicas: int = 1,
    heard: Callable[[Answer], object] = lambda _answer: None,
) -> list[Device]:
    """Run one device for each kit to the end of its film, all behind the same servers."""
    kits = [kit.of(policy) for kit in kits]
    env = simpy.Environment()
    servers = Servers(env, setting.server, kits[0].manifest, full, replicas)
    count = len(kits)
    devices = [
        Device(env, setting, policy, kit, servers, seed * count + number, heard, crowd=count > 1)
        for number, kit in enumerate(kits)
    ]
    running = [env.process(device.run()) for device in devices]
    env.run(until=simpy.AllOf(env, running))
    return devices

"""The discrete-event simulation of devices, their links, a broker and the servers behind the broker."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from cachenet.models.export.cost import Cost
from cachenet.shared.cascade.types import Answer
from cachenet.simulator.policies.policies import Policy, PolicyInputs
from cachenet.simulator.world.device import Device, Scenario
from cachenet.simulator.world.servers import Servers


def simulate(
    policy: Policy,
    inputs: list[PolicyInputs],
    scenario: Scenario,
    full: Cost,
    seed: int,
    replicas: int = 1,
    on_answer: Callable[[Answer], object] = lambda _answer: None,
) -> list[Device]:
    """Run one device to the end of each trace, all devices on the same servers.

    Args:
        policy: Policy of all devices.
        inputs: Inputs of each device.
        scenario: Hardware, link and camera.
        full: Cost of the full model.
        seed: Seed of the links and of the cameras' phases.
        replicas: Number of servers.
        on_answer: Called with each answer.
    """
    inputs = [one.for_policy(policy) for one in inputs]
    env = simpy.Environment()
    servers = Servers(env, scenario.server, inputs[0].manifest, full, replicas)
    count = len(inputs)
    devices = [
        Device(env, scenario, policy, one, servers, seed * count + number, on_answer, shared=count > 1)
        for number, one in enumerate(inputs)
    ]
    running = [env.process(device.run()) for device in devices]
    env.run(until=simpy.AllOf(env, running))
    return devices

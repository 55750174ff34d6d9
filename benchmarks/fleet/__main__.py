"""Gaps in the service of a fleet while its brokers and servers are killed at random.

    python -m benchmarks.fleet [--devices 1000] [--shards 3] [--servers 2] [--kills 6] [--json]

Runs mosquitto brokers, ``cloud-server`` processes on all of them, and simulated devices with the agent's own
connection, client and outbox. Devices ask at random times; a picture without an answer within the deadline is followed
by another question with the next frame, until one is answered in time. First nothing is killed for a while. Then one
process after another is killed (SIGKILL), started again after three seconds, and serves before the next one is killed;
each is killed before any is killed again. The base model of the bundle ``cifar10`` is the full model.

- ``gap_s``: longest time from a question to the device's next answer in time, of the devices of what was killed: those
  on a killed broker, or all for a killed server. ``others_gap_s``: the same of all other devices. 0 if the first
  attempt was answered in time. ``quiet_gap_s``: the same before the first kill.
- ``lost``: pictures that an outbox has stored and no server has answered at the end.
- ``audits_lost``: audits that were sent and not answered; they are samples, and nobody sends them again.
- ``kb_per_device``: resident memory of a simulated device; ``broker_kb_per_device``: of all brokers.
- ``broker_ms``, ``server_ms``, ``device_ms``: processor time a question before the first kill, milliseconds.
- ``p50_ms``, ``p99_ms``: latency of questions before the first kill; ``killing_p99_ms``: after it, of last attempts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.fleet import devices
from benchmarks.fleet.records import DeviceRecord, Kill, gaps, percentile
from benchmarks.fleet.site import Broker, Server, memory_bytes, processor_s, small_bundle, urls, wait_for
from cachenet.shared.transport.broker import Address, addresses
from cachenet.shared.transport.shards import ranked

#: Most devices in a process: paho waits with select(2), which takes file descriptors under 1024 only, and a device that
#: changes its broker has nine.
_PER_PROCESS = 100
#: Time between a kill and the start of the process, seconds.
_DOWN_S = 3.0
#: Shortest and longest time between the recovery of a process and the next kill, seconds: devices return meanwhile.
_BETWEEN_S = (15.0, 25.0)
#: Time for devices to settle before anything is measured, seconds.
_SETTLE_S = 5.0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The measures as the command prints them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 20_000)), hard))
    chance = random.Random(args.seed)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.chmod(0o755)
        (scratch / "bundle").mkdir()
        bundle = small_bundle(scratch / "bundle")
        brokers: list[Broker] = []
        for number in range(args.shards):
            brokers.append(Broker(scratch / f"broker{number}"))
            stack.callback(brokers[-1].kill)
        for broker in brokers:
            wait_for(broker)
        servers: list[Server] = []
        for number in range(args.servers):
            servers.append(Server(scratch, number, bundle, brokers))
            stack.callback(servers[-1].kill)
        for server in servers:
            wait_for(server)
        where = addresses(urls(brokers))
        # A process has the devices of one broker: while they change to another they delay only each other.
        names: dict[Address, list[str]] = {}
        for number in range(args.devices):
            names.setdefault(ranked(where, f"cam{number}")[0], []).append(f"cam{number}")
        groups = [
            own[first : first + _PER_PROCESS] for own in names.values() for first in range(0, len(own), _PER_PROCESS)
        ]
        fleet = [
            _start(stack, devices.Plan(tuple(group), urls(brokers), bundle, scratch, args.rate,
                                       args.deadline_ms / 1000, args.seed * len(groups) + number))
            for number, group in enumerate(groups)
        ]  # fmt: skip
        for _, pipe in fleet:
            pipe.recv()
        for _, pipe in fleet:
            pipe.send("ask")
        time.sleep(_SETTLE_S)
        pids = {"broker": [one.pid for one in brokers], "server": [one.pid for one in servers]}
        pids["device"] = [process.pid or 0 for process, _ in fleet]
        before, begun = {kind: processor_s(own) for kind, own in pids.items()}, time.monotonic()
        time.sleep(args.quiet_s)
        used, quiet_end = {kind: processor_s(own) - before[kind] for kind, own in pids.items()}, time.monotonic()
        memory = {kind: memory_bytes(own) for kind, own in pids.items()}
        kills = _kill([*brokers, *servers], args.kills, chance)
        ended = time.monotonic()
        load = os.getloadavg()[0]
        for _, pipe in fleet:
            pipe.send("stop")
        records: list[DeviceRecord] = []
        device_bytes = 0.0
        for _, pipe in fleet:
            own, found = pipe.recv()
            device_bytes += own * len(found)
            records += found
        for _, pipe in fleet:
            pipe.send("end")
        for process, _ in fleet:
            process.join()
    quiet = [one for record in records for one in record.questions if begun <= one.asked < quiet_end]
    later = [one for record in records for one in record.questions if quiet_end <= one.asked]
    times = [*(kill.time for kill in kills[1:]), ended]
    each = [gaps(kill, until, records, args.deadline_ms / 1000) for kill, until in zip(kills, times, strict=True)]
    latencies_ms = [1000 * one.latency for one in quiet]
    answers = max(1, len(quiet))
    audits = [sum(numbers) for numbers in zip(*(record.audits for record in records), strict=True)]
    return {
        "devices": args.devices,
        "questions": sum(len(record.questions) for record in records),
        "gap_s": round(max((gap for gap, _ in each), default=0.0), 3),
        "others_gap_s": round(max((gap for _, gap in each), default=0.0), 3),
        "quiet_gap_s": round(max((one.gap for one in quiet), default=0.0), 3),
        "lost": sum(record.stored - record.delivered for record in records),
        "stored": sum(record.stored for record in records),
        "audits": audits[0],
        "audits_lost": audits[0] - audits[1],
        "kb_per_device": round(device_bytes / args.devices / 1000, 1),
        "broker_kb_per_device": round(memory["broker"] / args.devices / 1000, 1),
        "server_mb": round(memory["server"] / args.servers / 1e6, 1),
        **{f"{kind}_ms": round(1000 * seconds / answers, 2) for kind, seconds in used.items()},
        "p50_ms": round(percentile(latencies_ms, 0.5), 1),
        "p99_ms": round(percentile(latencies_ms, 0.99), 1),
        "killing_p99_ms": round(percentile([1000 * one.latency for one in later], 0.99), 1),
        "kills": [
            {"what": "server" if kill.broker is None else "broker", "gap_s": round(gap, 3), "others_gap_s": round(o, 3)}
            for kill, (gap, o) in zip(kills, each, strict=True)
        ],
        "load": round(load, 1),
    }


def _start(stack: ExitStack, plan: devices.Plan) -> tuple[BaseProcess, Connection]:
    """Start the devices of a plan in a process."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=devices.run, args=(plan, other), daemon=True)
    process.start()
    stack.callback(process.kill)
    return process, pipe


def _kill(processes: list[Broker | Server], count: int, chance: random.Random) -> list[Kill]:
    """Kill processes and start them again. Returns the kills, once the last process serves again."""
    kills: list[Kill] = []
    order: list[Broker | Server] = []
    for _ in range(count):
        order = order or chance.sample(processes, len(processes))
        killed = order.pop()
        time.sleep(chance.uniform(*_BETWEEN_S))
        kills.append(Kill(time.monotonic(), killed.port))
        killed.kill()
        time.sleep(_DOWN_S)
        killed.restart()
        wait_for(killed)
    time.sleep(_BETWEEN_S[0])
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--devices", type=int, default=1000, help="number of simulated devices (default: 1000)")
    parser.add_argument("--shards", type=int, default=3, help="number of brokers (default: 3)")
    parser.add_argument("--servers", type=int, default=2, help="number of servers (default: 2)")
    parser.add_argument("--kills", type=int, default=6, help="number of kills (default: 6)")
    parser.add_argument("--rate", type=float, default=0.05, help="questions a second of a device (default: 0.05)")
    parser.add_argument("--deadline-ms", type=int, default=250, help="deadline of a question (default: 250)")
    parser.add_argument("--quiet-s", type=float, default=20.0, help="seconds before the first kill (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of lines")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the children end, too
    measures = measure(chosen)
    if chosen.json:
        print(json.dumps(measures))
    else:
        for name, value in measures.items():
            print(f"{name:21} {value}")


if __name__ == "__main__":
    main()

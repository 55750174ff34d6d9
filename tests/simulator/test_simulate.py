"""A simulation: times come from the profiles, decisions from the device's policy, and runs are reproducible."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import simpy

from cachenet.models.export.cost import Cost
from cachenet.shared.bundle.manifest import FORMAT, Manifest, Model
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.types import Answer, Step
from cachenet.shared.inference.image import Input
from cachenet.simulator.policies.policies import POLICIES, Policy, PolicyInputs
from cachenet.simulator.policies.trivial import Setting, Trivial
from cachenet.simulator.traces.trace import PictureTable, Trace
from cachenet.simulator.world import hardware_profiles
from cachenet.simulator.world.device import REQUEST, Device, Scenario
from cachenet.simulator.world.link import Link
from cachenet.simulator.world.link_direction import LinkDirection
from cachenet.simulator.world.link_profiles import LinkProfile
from cachenet.simulator.world.simulate import simulate
from tests.bundles import fixed_priors

CLASSES = 4
FULL, BASE = Cost(500_000_000, 30, False), Cost(20_000_000, 10, False)
PLAIN = LinkProfile(rtt_ms=20.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)
PI = hardware_profiles.DeviceProfile("a device", "invented", {"float32": {1: 10.0, 4: 20.0}}, 20.0, 2.0, 1.0, 0.5)
SERVER = hardware_profiles.ServerProfile("a server", "invented", 100.0, 1.0, 0.5, 0.25)


def manifest() -> Manifest:
    spec = Input(side=32, mean=(0.0,) * 3, std=(1.0,) * 3)

    def model(role: str, classes: tuple[int, ...] = ()) -> Model:
        coverage = tuple(0.9 if label in classes or not classes else 0.1 for label in range(CLASSES))
        share = 0.6 if role == "base" else 1.0
        return Model(
            role=role,
            file=f"{role}/1/model.onnx",
            bytes=300_000,
            sha256=64 * "0",
            input=spec,
            temperature=1.0,
            parameters=0,
            macs=0,
            milliseconds=1.0,
            coverage=tuple(share * one for one in coverage),
            classes=classes,
        )

    models = {"full": model("full"), "base": model("base"), "own": model("submodel", (0, 1))}
    labels = tuple("abcd")
    return Manifest(FORMAT, "invented", "classification", labels, models, {}, priors=fixed_priors(0.05), entropy=0.2)


def make_trace(frames: int = 200, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, 2, frames // 20 + 1), 20)[:frames]

    def logits_of(right: float) -> np.ndarray:
        label = np.where(rng.random(frames) < right, truth, rng.integers(0, CLASSES, frames))
        logits = rng.normal(0, 1, (frames, CLASSES))
        logits[np.arange(frames), label] += 5
        return logits.astype(np.float32)

    logits = {"full": logits_of(0.97), "base": logits_of(0.85), "own": logits_of(0.92)}
    signatures = [
        Signature(np.full((12, 16), grey, np.float32), np.full((24, 32), grey, np.float32))
        for grey in rng.normal(128, 20, frames)  # no two pictures are alike, so models run
    ]
    return Trace(truth, np.arange(frames), PictureTable(logits, np.full(frames, 2000), signatures))


THRESHOLDS: dict[Trivial, Setting] = {
    "hold": {"n": 5},
    "difference": {"limit": 50.0},
    "student": {"sure": 0.95},
    "student+hold": {"sure": 0.95, "blocks": 8},
}


def make_inputs(frames: int = 200, seed: int = 0, deadline: float = 0.25) -> PolicyInputs:
    trace, made = make_trace(frames, seed), manifest()
    seconds = {"full": PI.seconds(FULL), "base": PI.seconds(BASE), "own": PI.seconds(BASE)}
    return PolicyInputs(trace, made, 0.02, deadline, seconds, PI.seconds(FULL, 4), THRESHOLDS, f"device-{seed}")


def run(policy: Policy, inputs: list[PolicyInputs], link: LinkProfile = PLAIN, **options: int) -> list[Device]:
    return simulate(policy, inputs, Scenario(PI, link, SERVER, fps=10.0, cold=True), FULL, 0, **options)


def test_the_latency_of_a_request_is_the_sum_of_its_steps() -> None:
    [device] = run("server-only", [make_inputs(20)])
    [first] = {round(ms, 9) for ms in [device.tally.latency.longest]}
    up, down = (nbytes * 8 / 8e6 for nbytes in (2000 + REQUEST, device._answer_bytes))
    expected = (2.0 + 0.5) / 1e3 + up + 0.010 + 0.25e-3 + SERVER.seconds(FULL, 1) + 0.25e-3 + down + 0.010
    assert first == pytest.approx(1e3 * expected)
    assert device.tally.latency.mean == pytest.approx(1e3 * expected)


def test_the_latency_of_a_local_answer_is_the_model_and_the_handling_of_the_frame() -> None:
    for policy, cost, threads in (("device-only", FULL, 4), ("device-base", BASE, 1)):
        [device] = run(policy, [make_inputs(20)])  # type: ignore[arg-type]
        assert device.tally.latency.mean == pytest.approx(1e3 * PI.seconds(cost, threads) + 2.0)
        assert device.up.bytes == device.down.bytes == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_frame_has_one_answer_and_a_seed_reproduces_the_run(policy: Policy) -> None:
    answers: list[list[Answer]] = [[], []]
    for own in answers:
        scenario = Scenario(PI, PLAIN, SERVER, 10.0, cold=True)
        [device] = simulate(policy, [make_inputs()], scenario, FULL, 3, on_answer=own.append)
        assert [answer.frame for answer in own] == list(range(200))
        tally = device.tally
        assert tally.frames == 200 == tally.latency.count
        assert tally.hits + sum(answer.level in ("full", "cloud", "fallback") for answer in own) == 200
    assert answers[0] == answers[1]


@pytest.mark.parametrize("cold", [False, True])
def test_a_device_that_runs_ahead_of_the_clock_gives_the_answers_of_one_that_does_not(
    cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three devices share a server over a link with losses: bytes, answers and times are the same, with fewer
    events."""

    def both() -> tuple[list[object], int]:
        events, timeout = [], simpy.Environment.timeout
        with monkeypatch.context() as counted:
            counted.setattr(simpy.Environment, "timeout", lambda *values: events.append(0) or timeout(*values))
            scenario = Scenario(PI, msgspec.structs.replace(PLAIN, loss=0.05), SERVER, 10.0, cold)
            devices = simulate("cachenet", [make_inputs(300, seed) for seed in range(3)], scenario, FULL, 0)
        totals = [
            (device.tally.window_hits, device.tally.latency.mean, device.up.bytes, device.down.bytes)
            for device in devices
        ]
        return [*totals, *(device.tally.fallbacks for device in devices)], len(events)

    ahead, few = both()
    initialise = Device.__init__

    def synchronous(self: Device, *values: Any, **options: Any) -> None:
        initialise(self, *values, **options)
        self._under_way = 1  # a message is always under way

    monkeypatch.setattr(Device, "__init__", synchronous)
    synchronised, many = both()
    assert ahead == synchronised
    assert few < many / 1.5


def test_cachenet_takes_the_time_of_signature_and_decision() -> None:
    """No local model may answer, so every frame is asked."""
    cautious = make_inputs(20)
    models = {name: cautious.manifest.models[name] for name in ("full", "base")}
    manifest = msgspec.structs.replace(cautious.manifest, priors=fixed_priors(0.0), models=models)
    [server], [own] = run("server-only", [cautious]), run("cachenet", [replace(cautious, manifest=manifest)])
    assert own.tally.hits == 0
    base_ms = 1e3 * cautious.seconds["base"]
    assert own.tally.latency.mean - server.tally.latency.mean == pytest.approx(base_ms + 1.0)


def test_a_late_frame_does_not_shorten_the_intervals_after_it() -> None:
    """At ten frames a second the first frame takes 0.2 s; the intervals after it stay 0.1 s."""
    base_inputs = make_inputs(4)
    scenario = Scenario(PI, PLAIN, SERVER, fps=10.0, cold=True)
    env = simpy.Environment()
    starts: list[float] = []
    device = Device(env, scenario, "device-base", base_inputs, None, 0)  # type: ignore[arg-type]
    lookup = device._policy.lookup

    def slow(frame: Frame, now: float) -> Step:
        starts.append(now)
        device._timer.add(0.2 if frame.index == 0 else 0.0)
        return lookup(frame, now)

    device._policy.lookup = slow  # type: ignore[method-assign]
    env.run(until=env.process(device.run()))
    assert np.diff(starts) == pytest.approx([0.2 + 0.002 + 0.0022, 0.1, 0.1], abs=1e-6)


def test_an_evicted_submodel_is_loaded_again_from_the_store() -> None:
    """The published policy holds one submodel and alternates between two."""
    base_inputs = make_inputs(600)
    models = dict(base_inputs.manifest.models)
    models["other"] = msgspec.structs.replace(models["own"], classes=(2, 3), coverage=models["own"].coverage[::-1])
    logits = base_inputs.trace.pictures.logits
    logits["other"] = logits["own"]
    truth = np.where(np.arange(600) // 60 % 2 == 0, base_inputs.trace.truth % 2, 2 + base_inputs.trace.truth % 2)
    logits["full"] = (8.0 * np.eye(CLASSES)[truth]).astype(np.float32)
    seconds = {**base_inputs.seconds, "other": base_inputs.seconds["own"]}
    manifest = msgspec.structs.replace(base_inputs.manifest, models=models)
    [device] = run("cachenet-paper", [replace(base_inputs, manifest=manifest, seconds=seconds)])
    assert device.tally.pushed == 2


def test_cameras_that_share_a_server_start_at_different_phases() -> None:
    scenario = Scenario(PI, PLAIN, SERVER, fps=10.0, cold=True)
    inputs = [make_inputs(10, seed) for seed in range(8)]
    devices = simulate("server-only", inputs, scenario, FULL, 0)
    assert len({device._phase for device in devices}) == 8
    assert all(0 <= device._phase < 0.1 for device in devices)


def test_the_oracle_always_agrees_and_is_faster_than_the_server() -> None:
    [oracle], [server] = run("oracle", [make_inputs()]), run("server-only", [make_inputs()])
    assert oracle.tally.agreed == 200
    assert oracle.tally.latency.mean < server.tally.latency.mean


def test_a_submodel_answers_only_after_its_download() -> None:
    levels: list[str] = []
    scenario = Scenario(PI, PLAIN, SERVER, 10.0, cold=True)
    [device] = simulate(
        "cachenet", [make_inputs(400)], scenario, FULL, 0, on_answer=lambda answer: levels.append(answer.model)
    )
    assert device.tally.pushed == 1
    first = levels.index("own")
    assert first * 0.1 >= 300_000 * 8 / 8e6
    assert device.down.bytes > 300_000


def test_a_general_model_of_another_size_is_fetched_without_a_recommendation() -> None:
    base_inputs = make_inputs(400)
    models = dict(base_inputs.manifest.models)
    models["own"] = msgspec.structs.replace(models["own"], classes=(), coverage=(0.5,) * CLASSES)
    small = replace(
        base_inputs,
        manifest=msgspec.structs.replace(base_inputs.manifest, models=models),
        seconds={**base_inputs.seconds, "own": 0.1 * base_inputs.seconds["base"]},
    )
    models_used: list[str] = []
    scenario = Scenario(PI, PLAIN, SERVER, 10.0, cold=True)
    [device] = simulate(
        "cachenet", [small], scenario, FULL, 0, on_answer=lambda answer: models_used.append(answer.model)
    )
    assert device.tally.pushed == 1
    assert "own" in models_used
    [paper] = simulate("cachenet-paper", [small], scenario, FULL, 0)
    assert paper.tally.pushed == 0, "the published policy has only submodels of some labels"


def test_a_late_answer_is_a_fallback_and_is_held_for_later_frames() -> None:
    slow = LinkProfile(rtt_ms=200.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)
    [device] = run("server-only", [make_inputs(40, deadline=0.1)], slow)
    assert device.tally.fallbacks == 40
    assert device.tally.latency.longest == pytest.approx(100.0)
    [holding] = run("hold", [make_inputs(40, deadline=0.1)], slow)
    assert holding.tally.hits > 20
    [own] = run("cachenet", [make_inputs(40, deadline=0.1)], slow)
    assert own._policy.tally.late > 0  # type: ignore[attr-defined]


def test_the_circuit_breaker_stops_requests_to_a_silent_server() -> None:
    dead = LinkProfile(rtt_ms=9000.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)
    answers: list[Answer] = []
    scenario = Scenario(PI, dead, SERVER, 10.0)
    simulate("server-only", [make_inputs(60, deadline=0.05)], scenario, FULL, 0, on_answer=answers.append)
    assert sum("circuit open" in answer.reason for answer in answers) > 40


@pytest.mark.parametrize(("sent", "there"), [(0.0, 1.0), (9.5, 12.5), (10.5, 13.0), (12.5, 13.5), (70.5, 73.0)])
def test_bytes_wait_for_the_end_of_an_outage(sent: float, there: float) -> None:
    """The outage lasts two seconds of every minute, from the tenth second on; the delay is one second."""
    env = simpy.Environment(initial_time=sent)
    link = Link(env, LinkDirection(rtt_ms=2000.0, jitter_ms=0.0, mbit=1e6, loss=0.0, seed=0), 2.0)
    arrivals: list[float] = []
    link.carry(1, lambda: arrivals.append(env.now))
    env.run()
    assert arrivals == [pytest.approx(there, abs=1e-6)]


def test_many_devices_wait_longer_for_one_server_than_for_two() -> None:
    inputs = [make_inputs(50, seed) for seed in range(40)]

    def mean(devices: list[Device]) -> float:
        return float(np.mean([device.tally.latency.mean for device in devices]))

    alone = mean(run("server-only", inputs[:1]))
    crowded, relieved = (mean(run("server-only", inputs, replicas=count)) for count in (1, 2))
    assert alone < relieved < crowded


@pytest.mark.slow
def test_the_memory_of_a_simulation_grows_by_less_than_a_number_a_frame() -> None:
    """What grows: labels of two bytes, hits in windows of 25 frames, and distinct latencies."""

    def held(frames: int) -> int:
        base_inputs = make_inputs(frames)
        assert base_inputs.trace.pictures.labels  # cached at the first use
        tracemalloc.start()
        devices = run("cachenet", [base_inputs])
        gc.collect()  # garbage in reference cycles is not held
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert devices[0].tally.frames == frames
        return size

    held(300)  # allocate what is allocated once
    assert held(4000) - held(2500) < 8 * 1500  # the frame cache is full by then


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    outputs = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.json"
        command = [
            sys.executable,
            "-m",
            "cachenet.simulator",
            "compare",
            "--seeds",
            "1",
            "--frames",
            "64",
            "--json",
            str(out),
        ]
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed})
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]
    policies = json.loads(outputs[0])["policies"]
    assert set(policies) == set(POLICIES)
    for metrics in policies.values():
        assert all(math.isfinite(metrics["latency_ms"][name]) for name in ("mean", "p50", "p95", "p99"))
        assert {"local_share", "asked_share", "disagreement", "accuracy", "agreement", "bytes_up", "bytes_down"} <= set(
            metrics
        )
        assert {"ratio_to_best_baseline", "ratio_to_oracle"} <= set(metrics)


SLOW = LinkProfile(rtt_ms=150.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)


def levels_of(
    inputs: PolicyInputs, link: LinkProfile, cold: bool, policy: Policy = "cachenet"
) -> tuple[list[str], Device]:
    levels: list[str] = []
    scenario = Scenario(PI, link, SERVER, 10.0, cold)
    [device] = simulate(policy, [inputs], scenario, FULL, 0, on_answer=lambda answer: levels.append(answer.level))
    return levels, device


def uncertain(frames: int) -> PolicyInputs:
    """Inputs with local models that may not answer, and a full model of 100 kB."""
    base_inputs = make_inputs(frames)
    models = dict(base_inputs.manifest.models)
    models["full"] = msgspec.structs.replace(models["full"], bytes=100_000)
    return replace(
        base_inputs, manifest=msgspec.structs.replace(base_inputs.manifest, models=models, priors=fixed_priors(0.0))
    )


def test_the_full_model_runs_on_the_device_over_a_slow_link_but_not_over_a_fast_one() -> None:
    levels, device = levels_of(uncertain(300), SLOW, cold=False)
    first = levels.index("full")
    assert 5 <= levels.count("cloud") < 20 and "cloud" in levels[:first]
    assert device.tally.full > 4 * levels.count("cloud")
    fast = LinkProfile(rtt_ms=2.0, jitter_ms=0.0, up_mbit=80.0, down_mbit=80.0, loss=0.0, outage_s=0.0)
    assert "full" not in levels_of(uncertain(300), fast, cold=False)[0]
    assert "full" not in levels_of(uncertain(300), SLOW, cold=False, policy="server-only")[0]


def test_a_device_fetches_the_full_model_once_requests_have_cost_as_many_bytes() -> None:
    levels, device = levels_of(uncertain(400), SLOW, cold=True)
    asked = levels[: levels.index("full")].count("cloud")
    assert asked * (2000 + REQUEST + device._answer_bytes) >= 100_000
    assert asked < 60

"""A replay: time is what the profiles say, decisions are the device's own, and nothing is left to chance."""

from __future__ import annotations

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
from cachenet.simulator.policies.trivial import Setting as Thresholds
from cachenet.simulator.policies.trivial import Trivial
from cachenet.simulator.traces.trace import Pictures, Trace
from cachenet.simulator.world import machines, world
from cachenet.simulator.world.device import REQUEST, Device, Setting
from cachenet.simulator.world.lane import LinkDirection
from cachenet.simulator.world.links import LinkProfile
from cachenet.simulator.world.wire import Link
from tests.bundles import fixed_priors

pytestmark = pytest.mark.slow

CLASSES = 4
FULL, BASE = Cost(500_000_000, 30, False), Cost(20_000_000, 10, False)
PLAIN = LinkProfile(rtt_ms=20.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)
PI = machines.DeviceProfile("a device", "invented", {"float32": {1: 10.0, 4: 20.0}}, 20.0, 2.0, 1.0, 0.5)
SERVER = machines.ServerProfile("a server", "invented", 100.0, 1.0, 0.5, 0.25)


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


def film(frames: int = 200, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(0, 2, frames // 20 + 1), 20)[:frames]

    def said(right: float) -> np.ndarray:
        label = np.where(rng.random(frames) < right, truth, rng.integers(0, CLASSES, frames))
        logits = rng.normal(0, 1, (frames, CLASSES))
        logits[np.arange(frames), label] += 5
        return logits.astype(np.float32)

    logits = {"full": said(0.97), "base": said(0.85), "own": said(0.92)}
    signatures = [
        Signature(np.full((12, 16), grey, np.float32), np.full((24, 32), grey, np.float32))
        for grey in rng.normal(128, 20, frames)  # every picture is another, so that models look
    ]
    return Trace(truth, np.arange(frames), Pictures(logits, np.full(frames, 2000), signatures))


THRESHOLDS: dict[Trivial, Thresholds] = {
    "hold": {"n": 5},
    "difference": {"limit": 50.0},
    "student": {"sure": 0.95},
    "student+hold": {"sure": 0.95, "blocks": 8},
}


def kit(frames: int = 200, seed: int = 0, deadline: float = 0.25) -> PolicyInputs:
    shown, made = film(frames, seed), manifest()
    seconds = {"full": PI.seconds(FULL), "base": PI.seconds(BASE), "own": PI.seconds(BASE)}
    return PolicyInputs(shown, made, 0.02, deadline, seconds, PI.seconds(FULL, 4), THRESHOLDS, f"device-{seed}")


def play(policy: Policy, kits: list[PolicyInputs], link: LinkProfile = PLAIN, **options: int) -> list[Device]:
    setting = Setting(PI, link, SERVER, fps=10.0, cold=True)
    return world.play(policy, kits, setting, FULL, 0, **options)


def test_asking_takes_what_each_step_takes_and_no_more() -> None:
    [device] = play("server-only", [kit(20)])
    [first] = {round(ms, 9) for ms in [device.tally.latency.longest]}
    up, down = (nbytes * 8 / 8e6 for nbytes in (2000 + REQUEST, device._answer_bytes))
    expected = (2.0 + 0.5) / 1e3 + up + 0.010 + 0.25e-3 + SERVER.seconds(FULL, 1) + 0.25e-3 + down + 0.010
    assert first == pytest.approx(1e3 * expected)
    assert device.tally.latency.mean == pytest.approx(1e3 * expected)


def test_a_device_that_answers_by_itself_takes_its_model_and_its_own_time() -> None:
    for policy, cost, threads in (("device-only", FULL, 4), ("device-base", BASE, 1)):
        [device] = play(policy, [kit(20)])  # type: ignore[arg-type]
        assert device.tally.latency.mean == pytest.approx(1e3 * PI.seconds(cost, threads) + 2.0)
        assert device.up.bytes == device.down.bytes == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_frame_has_one_answer_and_the_same_seed_the_same_run(policy: Policy) -> None:
    said: list[list[Answer]] = [[], []]
    for own in said:
        setting = Setting(PI, PLAIN, SERVER, 10.0, cold=True)
        [device] = world.play(policy, [kit()], setting, FULL, 3, heard=own.append)
        assert [answer.frame for answer in own] == list(range(200))
        tally = device.tally
        assert tally.frames == 200 == tally.latency.count
        assert tally.hits + sum(answer.level in ("full", "cloud", "fallback") for answer in own) == 200
    assert said[0] == said[1]


@pytest.mark.parametrize("cold", [False, True])
def test_a_device_that_goes_ahead_of_the_others_answers_as_one_that_waits_for_them(
    cold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three devices that share a server over a link with losses: bytes, answers and times are the same, and it goes
    ahead for most frames."""

    def run() -> tuple[list[object], int]:
        came, env = [], simpy.Environment.timeout
        with monkeypatch.context() as counted:
            counted.setattr(simpy.Environment, "timeout", lambda *given: came.append(0) or env(*given))
            setting = Setting(PI, msgspec.structs.replace(PLAIN, loss=0.05), SERVER, 10.0, cold)
            devices = world.play("cachenet", [kit(300, seed) for seed in range(3)], setting, FULL, 0)
        told = [
            (device.tally.course, device.tally.latency.mean, device.up.bytes, device.down.bytes) for device in devices
        ]
        return [*told, *(device.tally.fallbacks for device in devices)], len(came)

    ahead, few = run()
    begin = Device.__init__

    def waiting(self: Device, *given: Any, **options: Any) -> None:
        begin(self, *given, **options)
        self._on_the_way = 1  # something always is

    monkeypatch.setattr(Device, "__init__", waiting)
    waited, many = run()
    assert ahead == waited
    assert few < many / 1.5


def test_cachenet_pays_for_signature_and_decision() -> None:
    """No local model may answer, so that every frame is asked."""
    cautious = kit(20)
    models = {name: cautious.manifest.models[name] for name in ("full", "base")}
    manifest = msgspec.structs.replace(cautious.manifest, priors=fixed_priors(0.0), models=models)
    [server], [own] = play("server-only", [cautious]), play("cachenet", [replace(cautious, manifest=manifest)])
    assert own.tally.hits == 0
    base_ms = 1e3 * cautious.seconds["base"]
    assert own.tally.latency.mean - server.tally.latency.mean == pytest.approx(base_ms + 1.0)


def test_a_late_frame_does_not_make_the_next_ones_hurry() -> None:
    """Ten frames a second, of which the first takes a fifth: those after it come when they would have come after it."""
    shown = kit(4)
    setting = Setting(PI, PLAIN, SERVER, fps=10.0, cold=True)
    env = simpy.Environment()
    starts: list[float] = []
    device = Device(env, setting, "device-base", shown, None, 0)  # type: ignore[arg-type]
    lookup = device._mind.lookup

    def slow(frame: Frame, now: float) -> Step:
        starts.append(now)
        device._meter.add(0.2 if frame.index == 0 else 0.0)
        return lookup(frame, now)

    device._mind.lookup = slow  # type: ignore[method-assign]
    env.run(until=env.process(device.run()))
    assert np.diff(starts) == pytest.approx([0.2 + 0.002 + 0.0022, 0.1, 0.1], abs=1e-6)


def test_a_submodel_that_had_to_go_is_loaded_again_and_not_pulled_again() -> None:
    """The published rule has room for one, and takes turns."""
    shown = kit(600)
    models = dict(shown.manifest.models)
    models["other"] = msgspec.structs.replace(models["own"], classes=(2, 3), coverage=models["own"].coverage[::-1])
    logits = shown.film.pictures.logits
    logits["other"] = logits["own"]
    truth = np.where(np.arange(600) // 60 % 2 == 0, shown.film.truth % 2, 2 + shown.film.truth % 2)
    logits["full"] = (8.0 * np.eye(CLASSES)[truth]).astype(np.float32)
    seconds = {**shown.seconds, "other": shown.seconds["own"]}
    manifest = msgspec.structs.replace(shown.manifest, models=models)
    [device] = play("cachenet-paper", [replace(shown, manifest=manifest, seconds=seconds)])
    assert device.tally.pushed == 2


def test_cameras_that_share_a_server_do_not_all_look_at_once() -> None:
    setting = Setting(PI, PLAIN, SERVER, fps=10.0, cold=True)
    kits = [kit(10, seed) for seed in range(8)]
    devices = world.play("server-only", kits, setting, FULL, 0)
    assert len({device._begins for device in devices}) == 8
    assert all(0 <= device._begins < 0.1 for device in devices)


def test_the_oracle_is_never_wrong_by_itself_and_never_slower_than_who_asks() -> None:
    [oracle], [server] = play("oracle", [kit()]), play("server-only", [kit()])
    assert oracle.tally.agreed == 200
    assert oracle.tally.latency.mean < server.tally.latency.mean


def test_a_submodel_is_of_use_only_when_it_has_come_over_the_link() -> None:
    levels: list[str] = []
    setting = Setting(PI, PLAIN, SERVER, 10.0, cold=True)
    [device] = world.play("cachenet", [kit(400)], setting, FULL, 0, heard=lambda answer: levels.append(answer.model))
    assert device.tally.pushed == 1
    first = levels.index("own")
    assert first * 0.1 >= 300_000 * 8 / 8e6
    assert device.down.bytes > 300_000


def test_a_general_model_of_another_size_is_pulled_though_nobody_recommends_it() -> None:
    shown = kit(400)
    models = dict(shown.manifest.models)
    models["own"] = msgspec.structs.replace(models["own"], classes=(), coverage=(0.5,) * CLASSES)
    small = replace(
        shown,
        manifest=msgspec.structs.replace(shown.manifest, models=models),
        seconds={**shown.seconds, "own": 0.1 * shown.seconds["base"]},
    )
    said: list[str] = []
    setting = Setting(PI, PLAIN, SERVER, 10.0, cold=True)
    [device] = world.play("cachenet", [small], setting, FULL, 0, heard=lambda answer: said.append(answer.model))
    assert device.tally.pushed == 1
    assert "own" in said
    [paper] = world.play("cachenet-paper", [small], setting, FULL, 0)
    assert paper.tally.pushed == 0, "the published rule has submodels of some labels and no others"


def test_an_answer_that_comes_late_is_a_fallback_and_is_held_all_the_same() -> None:
    slow = LinkProfile(rtt_ms=200.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)
    [device] = play("server-only", [kit(40, deadline=0.1)], slow)
    assert device.tally.fallbacks == 40
    assert device.tally.latency.longest == pytest.approx(100.0)
    [holding] = play("hold", [kit(40, deadline=0.1)], slow)
    assert holding.tally.hits > 20
    [own] = play("cachenet", [kit(40, deadline=0.1)], slow)
    assert own._mind.tally.late > 0  # type: ignore[attr-defined]


def test_a_silent_cloud_is_left_alone_after_a_few_frames() -> None:
    dead = LinkProfile(rtt_ms=9000.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)
    answers: list[Answer] = []
    setting = Setting(PI, dead, SERVER, 10.0)
    world.play("server-only", [kit(60, deadline=0.05)], setting, FULL, 0, heard=answers.append)
    assert sum("circuit open" in answer.reason for answer in answers) > 40


@pytest.mark.parametrize(("sent", "there"), [(0.0, 1.0), (9.5, 12.5), (10.5, 13.0), (12.5, 13.5), (70.5, 73.0)])
def test_nothing_moves_in_an_outage_and_what_waits_leaves_after_it(sent: float, there: float) -> None:
    """Two seconds of every minute from the tenth second on; a second on the way."""
    env = simpy.Environment(initial_time=sent)
    wire = Link(env, LinkDirection(rtt_ms=2000.0, jitter_ms=0.0, mbit=1e6, loss=0.0, seed=0), 2.0)
    came: list[float] = []
    wire.carry(1, lambda: came.append(env.now))
    env.run()
    assert came == [pytest.approx(there, abs=1e-6)]


def test_many_devices_wait_for_one_server_and_less_for_two() -> None:
    kits = [kit(50, seed) for seed in range(40)]

    def mean(devices: list[Device]) -> float:
        return float(np.mean([device.tally.latency.mean for device in devices]))

    alone = mean(play("server-only", kits[:1]))
    crowded, relieved = (mean(play("server-only", kits, replicas=count)) for count in (1, 2))
    assert alone < relieved < crowded


def test_a_replay_keeps_nothing_of_frames_that_are_long_past() -> None:
    """What it holds in the end grows by less than a number a frame: labels of two bytes, hits in windows of 25, and new
    kinds of latency."""

    def held(frames: int) -> int:
        shown = kit(frames)
        assert shown.film.pictures.first  # of the film, and made when it is first asked for
        tracemalloc.start()
        devices = play("cachenet", [shown])
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert devices[0].tally.frames == frames
        return size

    held(300)  # what is made once
    assert held(4000) - held(2500) < 8 * 1500  # the frame cache is full by then


def test_the_same_seed_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    told = []
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
        told.append(out.read_bytes())
    assert told[0] == told[1]
    policies = json.loads(told[0])["policies"]
    assert set(policies) == set(POLICIES)
    for figures in policies.values():
        assert all(math.isfinite(figures["latency_ms"][name]) for name in ("mean", "p50", "p95", "p99"))
        assert {"local_share", "asked_share", "disagreement", "accuracy", "agreement", "bytes_up", "bytes_down"} <= set(
            figures
        )
        assert {"ratio_to_best_baseline", "ratio_to_oracle"} <= set(figures)


SLOW = LinkProfile(rtt_ms=150.0, jitter_ms=0.0, up_mbit=8.0, down_mbit=8.0, loss=0.0, outage_s=0.0)


def levels_of(
    kit_: PolicyInputs, link: LinkProfile, cold: bool, policy: Policy = "cachenet"
) -> tuple[list[str], Device]:
    levels: list[str] = []
    setting = Setting(PI, link, SERVER, 10.0, cold)
    [device] = world.play(policy, [kit_], setting, FULL, 0, heard=lambda answer: levels.append(answer.level))
    return levels, device


def unsure(frames: int) -> PolicyInputs:
    """Local models that may not answer, and a full model of 100 kB."""
    shown = kit(frames)
    models = dict(shown.manifest.models)
    models["full"] = msgspec.structs.replace(models["full"], bytes=100_000)
    return replace(shown, manifest=msgspec.structs.replace(shown.manifest, models=models, priors=fixed_priors(0.0)))


def test_over_a_slow_link_the_full_model_runs_here_and_over_a_quick_one_it_does_not() -> None:
    levels, device = levels_of(unsure(300), SLOW, cold=False)
    first = levels.index("full")
    assert 5 <= levels.count("cloud") < 20 and "cloud" in levels[:first]
    assert device.tally.full > 4 * levels.count("cloud")
    quick = LinkProfile(rtt_ms=2.0, jitter_ms=0.0, up_mbit=80.0, down_mbit=80.0, loss=0.0, outage_s=0.0)
    assert "full" not in levels_of(unsure(300), quick, cold=False)[0]
    assert "full" not in levels_of(unsure(300), SLOW, cold=False, policy="server-only")[0]


def test_a_device_without_it_fetches_it_once_questions_have_cost_as_many_bytes() -> None:
    levels, device = levels_of(unsure(400), SLOW, cold=True)
    asked = levels[: levels.index("full")].count("cloud")
    assert asked * (2000 + REQUEST + device._answer_bytes) >= 100_000
    assert asked < 60

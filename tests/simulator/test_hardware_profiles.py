"""Profiles of devices and servers: run times of models, files, and the fit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from cachenet.models.export import cost
from cachenet.models.export.cost import Cost
from cachenet.shared.inference.engine import Session
from cachenet.simulator.world import hardware_profiles, profiling
from cachenet.simulator.world.hardware_profiles import DeviceProfile, ServerProfile, UnknownMachine

DEVICE = DeviceProfile(
    "a Pi, \u201cold\u201d", "measured", {"float32": {1: 10.0, 4: 20.0}, "int8": {1: 40.0}}, 20.0, 2.0, 1.0, 0.5
)
SERVER = ServerProfile("a server", "measured", 100.0, 1.0, 0.5, 0.25)


@pytest.mark.parametrize(
    ("threads", "int8", "ms"),
    [(1, False, 100.2), (3, False, 100.2), (4, False, 50.2), (16, False, 50.2), (1, True, 25.2), (4, True, 25.2)],
)
def test_a_run_time_is_multiply_adds_and_a_constant_for_each_operator(threads: int, int8: bool, ms: float) -> None:
    assert 1e3 * DEVICE.seconds(Cost(10**9, 10, int8), threads) == pytest.approx(ms)
    assert DEVICE.threads == 4


def test_a_batch_costs_its_constant_once() -> None:
    full = Cost(10**9, 30, False)
    assert 1e3 * SERVER.seconds(full, 1) == pytest.approx(11.5)
    assert 1e3 * SERVER.seconds(full, 4) == pytest.approx(43.0)


@pytest.mark.parametrize("name", ["host", "rpi4", "rpi5", "jetson-nano", "jetson-orin-nano"])
def test_every_named_device_has_a_profile_with_a_source(name: str) -> None:
    profile = hardware_profiles.device(name)
    assert profile.source and profile.title
    assert profile.threads > 1


@pytest.mark.parametrize("name", ["host", "cpu", "gpu"])
def test_every_named_server_has_a_profile_with_a_source(name: str) -> None:
    assert hardware_profiles.server(name).source


def test_a_written_profile_is_read_back(tmp_path: Path) -> None:
    for profile, load in ((DEVICE, hardware_profiles.device), (SERVER, hardware_profiles.server)):
        (tmp_path / "own.toml").write_text(hardware_profiles.to_toml(profile))
        assert load(str(tmp_path / "own.toml")) == profile


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("title = 3", "Expected `str`"),
        ('title = "x"\nsource = "y"\nrates.float32 = { 1 = -2.0 }', "Expected `float` > 0.0"),
        ("not toml", "own.toml"),
        (
            "\n".join(f"{name} = 1.0" for name in ("operator_us", "frame_ms", "decision_ms", "encode_ms"))
            + '\ntitle = "x"\nsource = "y"\nrates.int8 = { 1 = 2.0 }',
            "rates.float32 needs a rate",
        ),
    ],
)
def test_a_file_that_is_no_profile_is_refused_with_its_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UnknownMachine, match=why):
        hardware_profiles.device(str(path))
    with pytest.raises(UnknownMachine, match="No such file"):
        hardware_profiles.device(str(tmp_path / "other.toml"))
    with pytest.raises(UnknownMachine, match="no device 'toaster'; known are host"):
        hardware_profiles.device("toaster")


def test_the_fit_recovers_rate_and_constant() -> None:
    costs = [Cost(macs, operators, False) for macs, operators in ((10**7, 10), (4 * 10**7, 20), (5 * 10**8, 30))]
    seconds = [one.macs / 50e9 + one.operators * 20e-6 for one in costs]
    found = profiling.fit(costs, seconds)
    assert (found.rate, found.operator_us) == (pytest.approx(50.0), pytest.approx(20.0))
    assert found.error == pytest.approx(0.0, abs=1e-9)
    shifted = profiling.fit(costs, [1e-4 * one.macs / 1e7 for one in costs])
    assert shifted.operator_us == pytest.approx(0.0, abs=1e-6)


def test_a_probe_network_is_a_residual_net_of_its_size(tmp_path: Path) -> None:
    profiling.probe_network((8, 16), 2, tmp_path / "net.onnx")
    model = onnx.load(str(tmp_path / "net.onnx"))
    found = cost.model_cost(model, 32)
    stem, first = 3 * 8 * 9 * 32**2, 4 * 8 * 8 * 9 * 32**2
    second = (8 * 16 * 9 + 3 * 16 * 16 * 9 + 8 * 16) * 16**2
    assert found == Cost(stem + first + second + 160, 1 + 4 + 4 + 1 + 4 + 2, False)
    logits = Session(tmp_path / "net.onnx", "cpu").run(np.zeros((1, 3, 32, 32), np.float32))
    assert logits.shape == (1, 10)


def test_profiles_are_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(DEVICE), type=DeviceProfile, strict=False) == DEVICE

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.settings import Settings, default_device, parse_size
from cachenet.shared.command import config
from cachenet.shared.transport.protocol import check_device


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("150MB", 150_000_000),
        ("150mb", 150_000_000),
        ("150 MB", 150_000_000),
        (" 64MiB ", 64 << 20),
        ("64M", 64_000_000),
        ("1.5GiB", 3 << 29),
        ("2000000", 2_000_000),
        ("20B", 20),
        ("7kB", 7000),
        ("7Ki", 7168),
        ("0", 0),
    ],
)
def test_sizes_are_read_with_their_units(text: str, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1TB", "1.MB", ".5MB", "1e6", "1 5MB", "150MBs", "1iB", "ten"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="150MB"):
        parse_size(text)


@given(st.text(max_size=80))
def test_every_host_name_becomes_a_device_name(name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: name)
        if (device := default_device("mqtt://broker")) != "catalogue":
            check_device(device)


@pytest.mark.parametrize(
    "wrong",
    [
        {"levels": ("frames", "clouds")},
        {"max_disagreement": 0.0},
        {"max_disagreement": 1.0},
        {"max_object_error": 0.0},
        {"max_object_error": 1.0},
        {"mode": "later"},
        {"deadline_ms": 0},
        {"deadline_ms": 60_001},
        {"provider": "gpu"},
        {"threads": -1},
        {"fps": 0.0},
        {"frames": 0},
        {"results": "perhaps"},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(config.ConfigError, match=next(iter(wrong)).replace("_", "-")):
        config.load(Settings, wrong, environment={})


@pytest.mark.parametrize(
    ("broker", "device"),
    [
        ("mqtts://cam1@broker.example:8883", "cam1"),
        ("mqtt://porch-pi.2@10.0.0.1", "porch-pi.2"),
        ("mqtt://broker", "the-host"),
        ("", "the-host"),
        ("mqtt://camera%201@broker", "the-host"),
        ("mqtt://[::1", "the-host"),
    ],
)
def test_a_device_is_called_as_the_brokers_user_or_else_as_its_host(
    broker: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "the-host.local")
    assert config.load(Settings, {"broker": broker}, environment={}).device == device
    assert config.load(Settings, {"broker": broker, "device": "mine"}, environment={}).device == "mine"


def test_mode_and_budget_follow_the_task_unless_they_are_set() -> None:
    auto = Settings(max_disagreement=0.03, max_object_error=0.2)
    assert (auto.mode_for("classification"), auto.mode_for("detection")) == ("wait", "async")
    for mode in ("wait", "async", "offline"):
        explicit = Settings(mode=mode)
        assert explicit.mode_for("classification") == explicit.mode_for("detection") == mode
    assert auto.budget_for("classification") == ("--max-disagreement", 0.03)
    assert auto.budget_for("detection") == ("--max-object-error", 0.2)

"""Credentials for several brokers."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.cloud_server.settings import Settings as ServerSettings
from cachenet.edge_agent.settings import Settings
from cachenet.shared.command import config
from cachenet.shared.transport.broker import addresses


@pytest.mark.parametrize(
    ("flags", "hosts"),
    [
        (["--shards"], ["one.example", "fd00::2"]),
        ([], ["one.example"]),
    ],
)
def test_credentials_list_all_brokers_only_with_shards(tmp_path: Path, flags: list[str], hosts: list[str]) -> None:
    out = tmp_path / "deployment"
    command = ["provision", "cam1", "--host", "one.example", "--host", "fd00::2", "--out", str(out), *flags]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    device = config.load(Settings, {}, out / "devices/cam1/agent.toml")
    server = config.load(ServerSettings, {}, out / "server/server.toml")
    assert device.device == "cam1"
    for settings, user in ((device, "cam1"), (server, "server")):
        listed = addresses(settings.broker)
        assert [where.host for where in listed] == hosts
        assert {(where.user, where.port, where.tls) for where in listed} == {(user, 8883, True)}

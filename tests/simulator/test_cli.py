"""The commands refuse bad input in one line, with exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenet.simulator.cli import app

_LINK = ["link", "--listen", "1", "--to"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([*_LINK, "127.0.0.1:1883", "--profile", "wlan"], "no link 'wlan'; known are lan"),
        ([*_LINK, "nowhere"], "--to 'nowhere' is not HOST:PORT"),
        (["live", "--bundle", "cifar10", "--link", "wlan"], "no link 'wlan'; known are lan"),
        (["live", "--bundle", "cifar10", "--stream", "cinema"], "no stream 'cinema'; there are shuffled"),
        (["live", "--bundle", "nowhere"], "nowhere is no bundle"),
        (["compare", "--device", "toaster"], "no device 'toaster'; known are host"),
        (["compare", "--server", "toaster"], "no server 'toaster'; known are host"),
        (["compare", "--device", "toaster.toml"], "toaster.toml: No such file"),
        (["compare", "--link", "wlan"], "no link 'wlan'; known are lan"),
        (["compare", "--stream", "cinema"], "no stream 'cinema'; there are shuffled"),
        (["compare", "--sweep", "link.colour=1..2"], "'link.colour' cannot be swept; link.rtt"),
        (["compare", "--sweep", "link.rtt=9..1"], "'link.rtt=9..1' is no sweep; write link.rtt=5..200"),
        (["compare", "--bundle", "nowhere"], "nowhere is no bundle"),
        (["profile", "--bundle", "nowhere"], "nowhere is no bundle"),
        (["replay", "nowhere", "--stream", "here", "--bundle", "nowhere"], "nowhere is no bundle"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"simulator: {why}")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["live"], ["link"], ["stream"], ["compare"], ["profile"], ["replay"]])
def test_help_has_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: simulator" in result.stdout

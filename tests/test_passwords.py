"""No output of any command has a password, at any position of an address."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app as server
from cachenet.edge_agent.cli import app as agent
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.settings import CameraTable, Settings
from cachenet.shared.command import config, exit
from tests.bundles import tiny_bundle

SECRET = "s3cret"
#: Addresses without a listener, so each command reports an error about them.
ADDRESSES = [
    f"{form.format(SECRET)}"
    for form in (
        "rtsp://u:{}@127.0.0.1:1/x",
        "rtsp://127.0.0.1:1/user=admin_password={}_channel=1.sdp",
        "rtsp://127.0.0.1:1/?user=a&password={}",
        "rtsp://u:a/{}@127.0.0.1:1/x",
        "rtsp://u:a@{}@127.0.0.1:1/x",
        "RTSP://u:{}@127.0.0.1:1/x",
        "rtsps://u:{}@127.0.0.1:1/x",
        "http://u:{}@127.0.0.1:1/x",
        "https://127.0.0.1:1/x?pwd={}",
        "rtmp://127.0.0.1:1/live/{}",
        "rtsp:/u:{}@127.0.0.1:1/x",
        "u:{}@127.0.0.1:1/x",
    )
]
BROKERS = [
    f"{form.format(SECRET)}"
    for form in ("mqtt://u:{}@127.0.0.1:1", "mqtts://u:{}@127.0.0.1:1/x", "mqtt://u:a/{}@127.0.0.1", "u:{}@127.0.0.1")
]


@pytest.fixture(autouse=True)
def logging_enabled() -> Iterator[None]:
    """Switch the log on again: a doctor, which ends with its process, leaves it off."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_password_of_a_camera_is_not_shown(address: str, bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("".join(f"[[camera]]\nname = '{name}'\nsource = '{address}'\n" for name in ("a", "b")))
    for command in (
        ["run", address, "--bundle", str(bundle)],
        ["run", address, "--print-config"],
        ["run", "--config", str(file), "--print-config"],
        ["run", "--config", str(file), "--bundle", str(bundle)],
        ["doctor", address, "--bundle", str(bundle)],
        ["doctor", address, "--bundle", str(bundle), "--json"],
        ["doctor", "--config", str(file), "--print-config"],
    ):
        done = CliRunner().invoke(agent, command)
        assert done.output, command
        assert SECRET not in done.output, command
        if "--print-config" in command:
            assert '"..." takes the place of what may hold a password' in done.stdout
            (tmp_path / "printed.toml").write_text(done.stdout)
            config.load(Settings, {}, tmp_path / "printed.toml", {})


@pytest.mark.parametrize("address", BROKERS)
def test_the_password_of_a_broker_is_not_shown(address: str, bundle: Path) -> None:
    for app, arguments in ((agent, ["camera:0"]), (server, ["--bundle", str(bundle)])):
        for command in (["run", *arguments], ["run", *arguments, "--print-config"], ["doctor", *arguments]):
            done = CliRunner().invoke(app, [*command, "--broker", address])
            assert done.output, command
            assert SECRET not in done.output, (command, done.output)


@pytest.mark.parametrize("arguments", [["--mode", "{}"], ["camera:0", "{}"], ["--fps", "{}"], ["--fps={}"], ["--{}"]])
@pytest.mark.parametrize("address", [*ADDRESSES[:3], ADDRESSES[-1]])
def test_the_password_of_a_misplaced_address_is_not_shown(
    arguments: list[str], address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edge-agent", "run", *(argument.format(address) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        exit.run(agent)
    output = capsys.readouterr()
    assert ended.value.code == 2
    assert output.err.count("\n") == 1, output.err
    assert SECRET not in output.out + output.err


def test_a_decision_log_has_no_password_and_reads_back_unchanged() -> None:
    camera = CameraTable("door", ADDRESSES[0])
    settings = Settings(source=ADDRESSES[1], broker=BROKERS[0], camera=(camera,), deadline_ms=70)
    begun = decision_log.CascadeCreated(settings, "v", None, True, 5)
    written = msgspec.json.encode(begun)
    assert SECRET.encode() not in written
    assert msgspec.json.decode(written, type=decision_log.Event) == begun
    assert begun.settings.deadline_ms == 70


@pytest.mark.skipif("OPENCV_FFMPEG_LOGLEVEL" in os.environ, reason="the user has switched the log of FFmpeg on")
def test_libraries_do_not_show_the_password_of_a_camera(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for address in ADDRESSES:
        CliRunner().invoke(agent, ["run", address, "--bundle", str(bundle)])
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err

"""No output of any command holds a password, wherever in an address it stands."""

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
#: Nothing listens at the addresses, so that each command says what is wrong with them.
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
def as_it_was() -> Iterator[None]:
    """A doctor ends with its process, and leaves the log switched off."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_cameras_password_is_not_shown(address: str, bundle: Path, tmp_path: Path) -> None:
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
def test_a_brokers_password_is_not_shown(address: str, bundle: Path) -> None:
    for app, what in ((agent, ["camera:0"]), (server, ["--bundle", str(bundle)])):
        for command in (["run", *what], ["run", *what, "--print-config"], ["doctor", *what]):
            done = CliRunner().invoke(app, [*command, "--broker", address])
            assert done.output, command
            assert SECRET not in done.output, (command, done.output)


@pytest.mark.parametrize("arguments", [["--mode", "{}"], ["camera:0", "{}"], ["--fps", "{}"], ["--fps={}"], ["--{}"]])
@pytest.mark.parametrize("address", [*ADDRESSES[:3], ADDRESSES[-1]])
def test_an_address_in_the_wrong_place_of_a_command_line_is_not_shown_with_its_password(
    arguments: list[str], address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["edge-agent", "run", *(argument.format(address) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        exit.run(agent)
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.err.count("\n") == 1, said.err
    assert SECRET not in said.out + said.err


def test_a_flight_log_holds_no_password_and_is_read_as_it_was_written() -> None:
    camera = CameraTable("door", ADDRESSES[0])
    settings = Settings(source=ADDRESSES[1], broker=BROKERS[0], camera=(camera,), deadline_ms=70)
    begun = decision_log.Begun(settings, "v", None, True, 5)
    written = msgspec.json.encode(begun)
    assert SECRET.encode() not in written
    assert msgspec.json.decode(written, type=decision_log.Event) == begun
    assert begun.settings.deadline_ms == 70


@pytest.mark.skipif("OPENCV_FFMPEG_LOGLEVEL" in os.environ, reason="its user wants to see what FFmpeg says")
def test_the_libraries_beneath_do_not_show_it_either(bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for address in ADDRESSES:
        CliRunner().invoke(agent, ["run", address, "--bundle", str(bundle)])
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err

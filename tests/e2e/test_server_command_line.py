"""Command line of the server: invalid input, and printed settings."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from cachenet.cloud_server import cli
from cachenet.shared.bundle.manifest import Bundle
from tests.broker import Mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.servers import bundle

__all__ = ["bundle"]


def refused(*arguments: str, **environment: str) -> str:
    """Run the command in this process, which must end with 2 and one line on stderr. The line."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["cloud-server", *arguments])
        patch.setattr(cli, "_on_signals", lambda: pytest.fail(f"{arguments} starts a program"))
        for name, value in environment.items():
            patch.setenv(name, value)
        cli.main()
    assert (ended.value.code, out.getvalue()) == (2, ""), err.getvalue()
    assert err.getvalue().startswith("cloud-server: ")
    assert err.getvalue().count("\n") == 1, err.getvalue()
    return err.getvalue()


def test_invalid_input_gives_one_line_and_exit_code_2(bundle: Bundle, mosquitto: Mosquitto, tmp_path: Path) -> None:
    good = str(bundle.directory)
    damaged = tiny_bundle(tmp_path / "damaged")
    with (damaged / "base/1/model.onnx").open("ab") as file:
        file.write(b"x")
    unknown = tmp_path / "unknown.toml"
    unknown.write_text("bundel = 'x'\n")
    assert "give --bundle" in refused("run")
    assert "is no bundle" in refused("run", "--bundle", str(tmp_path / "nowhere"))
    assert "damaged" in refused("run", "--bundle", str(damaged))
    assert "mqtt://host:port" in refused("run", "--bundle", good, "--broker", "http://localhost")
    assert "password does not belong" in refused("run", "--bundle", good, "--broker", "mqtt://a:b@localhost")
    assert "No such file" in refused(
        "run", "--bundle", good, "--broker", "mqtt://a@localhost", "--password-file", str(tmp_path / "none")
    )
    assert "No such file" in refused(
        "run", "--bundle", good, "--broker", "mqtts://localhost", "--ca", str(tmp_path / "none")
    )
    assert "Address already in use" in refused("run", "--bundle", good, "--port", str(mosquitto.port))
    assert "Address already in use" in refused("broker", "--port", str(mosquitto.port))
    assert "IPv4" in refused("run", "--bundle", good, "--listen", "localhost")
    assert "unknown key 'bundel'" in refused("run", "--config", str(unknown))
    assert "CACHENET_QUEUE" in refused("run", "--bundle", good, CACHENET_QUEUE="0")
    assert "--set queue" in refused("run", "--bundle", good, "--set", "queue=0")
    assert "use CACHENET_FINE_TUNE" in refused("run", "--bundle", good, **{"CACHENET_SPECIAL" + "ISE": "true"})
    assert "leave it out" in refused("run", "--bundle", good, "--set", "data=frames")
    assert "use early_exits" in refused("run", "--bundle", good, "--set", "layer_caches=gati")


def test_the_earlier_spelling_of_fine_tuning_is_accepted_and_not_shown() -> None:
    run = [sys.executable, "-m", "cachenet.cloud_server", "run"]
    earlier = "--special" + "ise"
    for flag in ("--fine-tune", earlier):
        printed = subprocess.run(
            [*run, flag, "--print-config"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert "fine_tune = true" in printed.splitlines()
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "--fine-tune" in shown and earlier not in shown


def test_print_config_shows_the_settings_in_force_without_the_password(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("queue = 5\nmax_batch = 6\nthreads = 7\n")
    printed = subprocess.run(
        [sys.executable, "-m", "cachenet.cloud_server", "run",
         "--config", str(file), "--threads", "3", "--print-config"],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "CACHENET_MAX_BATCH": "4", "CACHENET_THREADS": "4", "CACHENET_PASSWORD": "s3cret"},
    )  # fmt: skip
    for line in ("queue = 5", "max_batch = 4", "threads = 3"):
        assert line in printed.stdout.splitlines()
    assert "s3cret" not in printed.stdout + printed.stderr

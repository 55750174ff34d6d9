from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cachenet.edge_agent.cli import app
from tests.bundles import tiny_bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

BROKER = "mqtt://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CACHENET_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with ``bundle`` and ``pictures`` of which all is well, and some of which it is not."""
    place = tmp_path_factory.mktemp("place")
    tiny_bundle(place / "bundle")
    damaged = tiny_bundle(place / "damaged")
    with (damaged / "base/1/model.onnx").open("ab") as file:
        file.write(b"x")
    (place / "pictures").mkdir()
    for i in range(3):
        cv2.imwrite(str(place / f"pictures/{i}.png"), np.full((48, 48, 3), 80 * i, np.uint8))
    (place / "unknown.toml").write_text("sorce = 'x'\n")
    (place / "not.toml").write_text("= 3\n")
    (place / "text.mp4").write_text("no video")
    (place / "nameless.toml").write_text("[[camera]]\nsource = 'x'\n")
    (place / "odd.toml").write_text("[[camera]]\nname = 'a'\nsource = 'x'\nrisk = 1\n")
    (place / "no-table.toml").write_text("camera = 'x'\n")
    (place / "two.toml").write_text(
        "".join(
            f"[[camera]]\nname = '{name}'\nsource = '{place}/{what}'\n"
            for name, what in (("a", "pictures"), ("b", "c"))
        )
    )
    yield place


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["run", *arguments], env=environment)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "no SOURCE"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "metrics=x"], "no port"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "metrics=70000"], "no port"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--mode", "later"], "choose of wait, async, offline"),
        (["{place}/pictures", "--broker", BROKER, "--set", "levels=cloud", "--mode", "offline"], "no level can answer"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--fps", "1e-10"], "fps"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--region", "0.5,0,0.6,1"], "no region"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "audit_share=1.5"], "audit"),
        (["{place}/pictures"], "--broker"),
        (["{place}/pictures", "--broker", "http://x"], "mqtt://host:port"),
        (["{place}/pictures", "--broker", "mqtt://a:b@x"], "password does not belong"),
        (["{place}/pictures", "--broker", "mqtt://x:99999"], "port"),
        (["{place}/pictures", "--broker", BROKER, "--password-file", "{place}/none"], "No such file"),
        (["{place}/pictures", "--broker", "mqtts://x", "--ca", "{place}/none"], "No such file"),
        (["{place}/pictures", "--broker", BROKER, "--store", "/dev/null/store"], "--store"),
        (["{place}/pictures", "--broker", BROKER, "--device", "a/b"], "device name"),
        (["{place}/pictures", "--bundle", "{place}/none"], "is no bundle"),
        (["{place}/pictures", "--bundle", "{place}/damaged"], "damaged"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "base=none"], "full, base, vehicles"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "levels=cloud"], "levels must include base"),
        (
            ["{place}/pictures", "--bundle", "{place}/bundle", "--set", "levels=frames,submodels"],
            "levels must include base",
        ),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "levels=cache"], "--set levels: "),
        (["{place}/pictures", "--broker", BROKER, "--set", "levels="], "levels must include base"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "memory_budget=much"], "150MB"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "memory_budget=1MB"], "memory budget 1MB"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--max-disagreement", "2"], "--max-disagreement"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--provider", "cuda"], "provider"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--provider", "gpu"], "--provider"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--output", "/nowhere/x"], "No such file"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "summary=/nowhere/x"], "No such file"),
        (["{place}/none", "--bundle", "{place}/bundle"], "no file, directory"),
        (["{place}/text.mp4", "--bundle", "{place}/bundle"], "no video"),
        (["camera:x", "--bundle", "{place}/bundle"], "camera:0"),
        (["camera:99", "--bundle", "{place}/bundle"], "cannot be opened"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--preview", "eighty"], "is no port"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--save", "a.gif"], "--save a.gif: a video's name ends in"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--save", "/nowhere/a.mp4"], "a.mp4: No such file"),
        (
            ["{place}/pictures", "--bundle", "{place}/bundle", "--set", "misses={place}/not.toml/x"],
            "x: Not a directory",
        ),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "misses_budget=much"], "misses_budget: 'much'"),
        (["{place}/pictures", "--bundle", "{place}/bundle", "--set", "results=true"], "need a broker"),
        (
            ["{place}/pictures", "--broker", BROKER, "--set", "home_assistant=true", "--device", "a.b"],
            "call a.b another",
        ),
        (
            ["{place}/pictures", "--broker", BROKER, "--set", "home_assistant=true", "--set", "discovery_prefix=#"],
            "discovery_prefix '#'",
        ),
        (["--config", "{place}/none.toml"], "No such file"),
        (["--config", "{place}/unknown.toml"], "unknown key 'sorce'"),
        (["--config", "{place}/not.toml"], "not TOML"),
        (["--config", "{place}/nameless.toml"], "camera: Object missing required field `name`"),
        (["--config", "{place}/odd.toml"], "camera: Object contains unknown field `risk`"),
        (["--config", "{place}/no-table.toml"], "camera: Expected"),
        (["{place}/pictures", "--config", "{place}/two.toml", "--bundle", "{place}/bundle"], "give source in them"),
        (["--set", "record=x", "--config", "{place}/two.toml", "--bundle", "{place}/bundle"], "give record in them"),
        (["--config", "{place}/two.toml", "--bundle", "{place}/bundle"], "b: '{place}/c' is no file"),
        (["pipe:3x3", "--bundle", "{place}/bundle"], "even"),
        (["camera:0", "--bundle", "{place}/bundle", "--set", "frozen=thaw"], "choose of say, lost"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = invoke(*(argument.format(place=place) for argument in arguments))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("edge-agent: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert why.format(place=place) in done.stderr


@pytest.mark.parametrize("what", ["html.jpg", "unreadable"])
def test_an_unreadable_source_is_reported_and_exits_with_1(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "unreadable").mkdir()
    for name in ("html.jpg", "unreadable/a.png"):
        (tmp_path / name).write_text("<html>401 Unauthorized</html>")
    done = invoke(str(tmp_path / what), "--bundle", str(place / "bundle"), "--set", "levels=base", "--json")
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1] == f"edge-agent: no frame could be read from {tmp_path / what}"
    assert "begins with b'<html>401 Unauth'" in caplog.text
    figures = json.loads(done.stdout)
    assert (figures["frames"], figures["broken"]) == (0, 1)


def test_a_source_of_any_name_is_answered_logged_and_recorded(place: Path, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are no text, which JSON and TOML are."""
    source = tmp_path / os.fsdecode(b"caf\xe9 10:20")
    shutil.copytree(place / "pictures", source)
    log = tmp_path / "flight"
    done = invoke(
        str(source), "--bundle", str(place / "bundle"), "--set", "levels=base", "--json", "--set", f"decision_log={log}",
        "--store", str(tmp_path / "store"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 3
    assert len(log.read_bytes().splitlines()) >= 4
    shown = invoke(str(source), "--print-config")
    assert shown.exit_code == 0, shown.output


def test_a_port_in_use_is_reported_with_its_setting(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for setting, flags in (("--preview", ["--preview", port]), ("metrics", ["--set", f"metrics={port}"])):
            done = invoke(str(place / "pictures"), "--bundle", str(place / "bundle"), *flags)
            assert (done.exit_code, done.stderr) == (2, f"edge-agent: {setting} {port}: Address already in use\n")


def test_a_bad_variable_is_named(place: Path) -> None:
    done = invoke(str(place / "pictures"), CACHENET_DEADLINE_MS="soon")
    assert done.exit_code == 2
    assert "CACHENET_DEADLINE_MS" in done.stderr


def test_a_source_that_opencv_cannot_open_is_one_line_even_of_the_processs_own_stderr(place: Path) -> None:
    """The libraries beneath write where no Python can catch it."""
    for source in ("camera:99", str(place / "text.mp4")):
        ended = subprocess.run(
            [sys.executable, "-m", "cachenet.edge_agent", "run", source, "--bundle", str(place / "bundle")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 2
        assert ended.stderr.startswith("edge-agent: ")
        assert ended.stderr.count("\n") == 1, ended.stderr


def printed(*arguments: str, **environment: str) -> dict[str, Any]:
    done = invoke(*arguments, "--print-config", **environment)
    assert done.exit_code == 0, done.output
    settings: dict[str, Any] = tomllib.loads(done.stdout)
    return settings


def test_flags_go_over_variables_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('source = "camera:1"\nthreads = 2\nfps = 5\nlevels = ["base"]\nresults = true\n')
    settings = printed("camera:3", "--config", str(file), CACHENET_SOURCE="camera:2", CACHENET_FPS="7.5")
    assert (settings["source"], settings["fps"], settings["threads"]) == ("camera:3", 7.5, 2)
    assert (settings["levels"], settings["results"], settings["deadline_ms"]) == (["base"], True, 250)
    assert printed(CACHENET_LEVELS="base, cloud", CACHENET_RESULTS="true")["levels"] == ["base", "cloud"]
    assert printed("--set", "results=false", "--config", str(file))["results"] is False


def test_the_printed_settings_are_a_file_with_the_same_settings(tmp_path: Path) -> None:
    done = invoke("camera:0", "--broker", BROKER, "--frames", "7", "--print-config")
    file = tmp_path / "agent.toml"
    file.write_text(done.stdout)
    assert invoke("--config", str(file), "--print-config").stdout == done.stdout
    assert "frames = 7" in done.stdout


def test_the_password_is_not_printed() -> None:
    done = invoke("--print-config", CACHENET_PASSWORD="s3cret")
    assert done.exit_code == 0
    assert "s3cret" not in done.output


@pytest.mark.parametrize(
    ("flag", "key", "variable", "new"),
    [
        ("--max-false-hits=0.01", "max_false_hits = 0.01", "CACHENET_MAX_FALSE_HITS", "max_disagreement"),
        ("--audit-budget=0.1", "audit_budget = 0.1", "CACHENET_AUDIT_BUDGET", "audit_share"),
        ("--gate=entropy", "gate = 'entropy'", "CACHENET_GATE", "max_disagreement"),
        ("--no-context", "context = false", "CACHENET_CONTEXT", "max_disagreement"),
        ("--replacement=lru", "replacement = 'lru'", "CACHENET_REPLACEMENT", "memory_budget"),
        ("--layer-caches=gati", "layer_caches = 'gati'", "CACHENET_LAYER_CACHES", "early_exits"),
        ("--flight=log", "flight = 'log'", "CACHENET_FLIGHT", "decision_log"),
        ("--no-prefetch", "prefetch = true", "CACHENET_PREFETCH", "server"),
    ],
)
def test_an_old_setting_is_refused_with_the_name_of_the_new_one(
    tmp_path: Path, flag: str, key: str, variable: str, new: str
) -> None:
    """As a flag, in a file and as a variable."""
    file = tmp_path / "old.toml"
    file.write_text(key + "\n")
    by_file = invoke("--config", str(file))
    by_variable = invoke("camera:0", **{variable: "1"})
    by_flag = subprocess.run(
        [sys.executable, "-m", "cachenet.edge_agent", "run", "camera:0", flag],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    for code, message, old in (
        (by_file.exit_code, by_file.stderr, f"key {key.split(maxsplit=1)[0]!r}"),
        (by_variable.exit_code, by_variable.stderr, variable),
        (by_flag.returncode, by_flag.stderr, flag.split("=", maxsplit=1)[0]),
    ):
        assert code == 2
        assert message.count("\n") == 1, message
        assert f"{old} no longer exists" in message
        assert new in message.lower().replace("-", "_")

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

from cachenet.edge_agent.cli import app, main
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
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with ``bundle`` and ``pictures`` of which all is well, and some of which it is not."""
    root = tmp_path_factory.mktemp("root")
    tiny_bundle(root / "bundle")
    damaged = tiny_bundle(root / "damaged")
    with (damaged / "base/1/model.onnx").open("ab") as file:
        file.write(b"x")
    (root / "pictures").mkdir()
    for i in range(3):
        cv2.imwrite(str(root / f"pictures/{i}.png"), np.full((48, 48, 3), 80 * i, np.uint8))
    (root / "unknown.toml").write_text("sorce = 'x'\n")
    (root / "not.toml").write_text("= 3\n")
    (root / "text.mp4").write_text("no video")
    (root / "nameless.toml").write_text("[[camera]]\nsource = 'x'\n")
    (root / "odd.toml").write_text("[[camera]]\nname = 'a'\nsource = 'x'\nrisk = 1\n")
    (root / "no-table.toml").write_text("camera = 'x'\n")
    (root / "two.toml").write_text(
        "".join(
            f"[[camera]]\nname = '{name}'\nsource = '{root}/{what}'\n" for name, what in (("a", "pictures"), ("b", "c"))
        )
    )
    yield root


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["run", *arguments], env=environment)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no SOURCE"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "metrics=x"], "no port"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "metrics=70000"], "no port"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--mode", "later"], "choose of auto, wait, async, offline"),
        (["{root}/pictures", "--broker", BROKER, "--set", "levels=cloud", "--mode", "offline"], "no level can answer"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--fps", "1e-10"], "fps"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--region", "0.5,0,0.6,1"], "no region"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "audit_share=1.5"], "audit"),
        (["{root}/pictures"], "--broker"),
        (["{root}/pictures", "--broker", "http://x"], "mqtt://host:port"),
        (["{root}/pictures", "--broker", "mqtt://a:b@x"], "password does not belong"),
        (["{root}/pictures", "--broker", "mqtt://x:99999"], "port"),
        (["{root}/pictures", "--broker", BROKER, "--password-file", "{root}/none"], "No such file"),
        (["{root}/pictures", "--broker", "mqtts://x", "--ca", "{root}/none"], "No such file"),
        (["{root}/pictures", "--broker", BROKER, "--store", "/dev/null/store"], "--store"),
        (["{root}/pictures", "--broker", BROKER, "--device", "a/b"], "device name"),
        (["{root}/pictures", "--bundle", "{root}/none"], "is no bundle"),
        (["{root}/pictures", "--bundle", "{root}/damaged"], "damaged"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "base=none"], "full, base, vehicles"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "levels=cloud"], "levels must include base"),
        (
            ["{root}/pictures", "--bundle", "{root}/bundle", "--set", "levels=frames,submodels"],
            "levels must include base",
        ),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "levels=cache"], "--set levels: "),
        (["{root}/pictures", "--broker", BROKER, "--set", "levels="], "levels must include base"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "memory_budget=much"], "150MB"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "memory_budget=1MB"], "memory budget 1MB"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--max-disagreement", "2"], "--max-disagreement"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--provider", "cuda"], "provider"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--provider", "gpu"], "--provider"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--output", "/nowhere/x"], "No such file"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "summary=/nowhere/x"], "No such file"),
        (["{root}/none", "--bundle", "{root}/bundle"], "no file, directory"),
        (["{root}/text.mp4", "--bundle", "{root}/bundle"], "no video"),
        (["camera:x", "--bundle", "{root}/bundle"], "camera:0"),
        (["camera:99", "--bundle", "{root}/bundle"], "cannot be opened"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--preview", "eighty"], "is no port"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--save", "a.gif"], "--save a.gif: a video's name ends in"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--save", "/nowhere/a.mp4"], "a.mp4: No such file"),
        (
            ["{root}/pictures", "--bundle", "{root}/bundle", "--set", "misses={root}/not.toml/x"],
            "x: Not a directory",
        ),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "misses_budget=much"], "misses_budget: 'much'"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "results=true"], "need a broker"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "outbox=much"], "outbox: 'much'"),
        (["{root}/pictures", "--bundle", "{root}/bundle", "--set", "outbox=5MB"], "outbox is for a server"),
        (
            ["{root}/pictures", "--broker", BROKER, "--mode", "offline", "--set", "outbox=5MB"],
            "outbox is for a server",
        ),
        (
            ["{root}/pictures", "--broker", BROKER, "--set", "home_assistant=true", "--device", "a.b"],
            "call a.b another",
        ),
        (
            ["{root}/pictures", "--broker", BROKER, "--set", "home_assistant=true", "--set", "discovery_prefix=#"],
            "discovery_prefix '#'",
        ),
        (["--config", "{root}/none.toml"], "No such file"),
        (["--config", "{root}/unknown.toml"], "unknown key 'sorce'"),
        (["--config", "{root}/not.toml"], "not TOML"),
        (["--config", "{root}/nameless.toml"], "camera: Object missing required field `name`"),
        (["--config", "{root}/odd.toml"], "camera: unknown key 'risk'"),
        (["--config", "{root}/no-table.toml"], "camera: Expected"),
        (["{root}/pictures", "--config", "{root}/two.toml", "--bundle", "{root}/bundle"], "give source in them"),
        (["--set", "record=x", "--config", "{root}/two.toml", "--bundle", "{root}/bundle"], "give record in them"),
        (["--config", "{root}/two.toml", "--bundle", "{root}/bundle"], "b: '{root}/c' is no file"),
        (["pipe:3x3", "--bundle", "{root}/bundle"], "even"),
        (["camera:0", "--bundle", "{root}/bundle", "--set", "frozen=thaw"], "choose of say, lost"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    done = invoke(*(argument.format(root=root) for argument in arguments))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("edge-agent: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert reason.format(root=root) in done.stderr


@pytest.mark.parametrize("what", ["html.jpg", "unreadable"])
def test_an_unreadable_source_is_reported_and_exits_with_1(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "unreadable").mkdir()
    for name in ("html.jpg", "unreadable/a.png"):
        (tmp_path / name).write_text("<html>401 Unauthorized</html>")
    done = invoke(str(tmp_path / what), "--bundle", str(root / "bundle"), "--set", "levels=base", "--json")
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1] == f"edge-agent: no frame could be read from {tmp_path / what}"
    assert "begins with b'<html>401 Unauth'" in caplog.text
    counts = json.loads(done.stdout)
    assert (counts["frames"], counts["broken"]) == (0, 1)


def test_a_source_of_any_name_is_answered_logged_and_recorded(root: Path, tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are no text, which JSON and TOML are."""
    source = tmp_path / os.fsdecode(b"caf\xe9 10:20")
    shutil.copytree(root / "pictures", source)
    log = tmp_path / "flight"
    done = invoke(
        str(source), "--bundle", str(root / "bundle"), "--set", "levels=base", "--json", "--set", f"decision_log={log}",
        "--store", str(tmp_path / "store"),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 3
    assert len(log.read_bytes().splitlines()) >= 4
    shown = invoke(str(source), "--print-config")
    assert shown.exit_code == 0, shown.output


def test_a_port_in_use_is_reported_with_its_setting(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for setting, flags in (("--preview", ["--preview", port]), ("metrics", ["--set", f"metrics={port}"])):
            done = invoke(str(root / "pictures"), "--bundle", str(root / "bundle"), *flags)
            assert (done.exit_code, done.stderr) == (2, f"edge-agent: {setting} {port}: Address already in use\n")


def test_a_bad_variable_is_named(root: Path) -> None:
    done = invoke(str(root / "pictures"), CACHENET_DEADLINE_MS="soon")
    assert done.exit_code == 2
    assert "CACHENET_DEADLINE_MS" in done.stderr


def test_a_source_that_opencv_cannot_open_is_one_line_even_of_the_processs_own_stderr(root: Path) -> None:
    """The libraries beneath write where no Python can catch it."""
    for source in ("camera:99", str(root / "text.mp4")):
        ended = subprocess.run(
            [sys.executable, "-m", "cachenet.edge_agent", "run", source, "--bundle", str(root / "bundle")],
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
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    key: str,
    variable: str,
    new: str,
) -> None:
    """As a flag, in a file and as a variable."""
    file = tmp_path / "old.toml"
    file.write_text(key + "\n")
    by_file = invoke("--config", str(file))
    by_variable = invoke("camera:0", **{variable: "1"})
    monkeypatch.setattr(sys, "argv", ["edge-agent", "run", "camera:0", flag])
    with pytest.raises(SystemExit) as by_flag:
        main()
    for code, message, old in (
        (by_file.exit_code, by_file.stderr, f"key {key.split(maxsplit=1)[0]!r}"),
        (by_variable.exit_code, by_variable.stderr, variable),
        (by_flag.value.code, capsys.readouterr().err, flag.split("=", maxsplit=1)[0]),
    ):
        assert code == 2
        assert message.count("\n") == 1, message
        assert f"{old} no longer exists" in message
        assert new in message.lower().replace("-", "_")

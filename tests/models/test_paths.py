"""An invalid path is refused before a package that may be missing is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenet.models.cli import app
from cachenet.shared.command.extras import how_to_install
from cachenet.simulator.cli import app as simulator
from tests.bundles import tiny_bundle


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Valid paths, a missing one, and a file where a directory is needed; torch and simpy are not installed."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "simpy", None)
    (tmp_path / "file").write_text("text")
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "0.png").write_bytes(b"")
    return {
        "file": str(tmp_path / "file"),
        "frames": str(tmp_path / "frames"),
        "bundle": str(tiny_bundle(tmp_path / "bundle")),
        "out": str(tmp_path / "out"),
        "none": str(tmp_path / "none"),
        "below": str(tmp_path / "file" / "out"),
    }


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("build --full {none} --data {frames} --out {out}", "--full {none} is not there"),
        ("build --full {file} --data {none} --out {out}", "--data {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --held-out {none}", "--held-out {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --labels {none}", "--labels {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --set scenes={none}", ": scenes {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --base {none}", "--base {none} is not there"),
        ("build --full {file} --data {frames} --out {below}", "--out {below}: {file} is no directory"),
        ("build --full {file} --data {frames} --out {frames}", "{frames} exists and is no bundle"),
        ("build --full {file} --data {file} --out {out}", "{file} is neither a directory nor a video"),
        ("train --out {below}", "--out {below}: {file} is no directory"),
        ("fine-tune {none} --recent {file} --out {out}", "{none}"),
        ("fine-tune {bundle} --recent {none} --out {out}", "--recent {none} is not there"),
        ("fine-tune {bundle} --recent {file} --out {frames}", "{frames} exists and is no bundle"),
        ("fine-tune {bundle} --recent {file} --out {out}", "{file} is no file of recent frames"),
        ("add-size {none} --share 0.1 --data {frames} --out {out}", "{none}"),
        ("add-size {bundle} --share 0.1 --data {none} --out {out}", "--data {none} is not there"),
        ("exits {bundle} --data {none} --out {out}", "--data {none} is not there"),
        ("exits {bundle} --data {frames} --out {frames}", "{frames} exists and is no bundle"),
        ("prove {bundle} --held-out {none} --out {out}", "--held-out {none} is not there"),
        ("report {none}", "{none}"),
        ("report {bundle} --data {none}", "--data {none} is not there"),
        ("report {bundle} --html {below}", "--html {below}: {file} is no directory"),
        ("inspect --full {none} --data {frames}", "--full {none} is not there"),
        ("sign {bundle} --keys {none}", "{none}: No such file or directory; 'model-builder keys' makes it"),
        ("show {bundle} --trusted-root {none}", "--trusted-root {none} is not there"),
    ],
)
def test_an_invalid_path_is_refused_before_torch_is_imported(command: str, message: str, paths: dict[str, str]) -> None:
    done = CliRunner().invoke(app, command.format(**paths).split())
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert message.format(**paths) in done.stderr and "torch" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "build --full {file} --data {frames} --out {out}",
        "train --out {out}",
        "add-size {bundle} --share 0.1 --data {frames} --out {out}",
        "exits {bundle} --data {frames} --out {out}",
        "prove {bundle} --held-out {frames} --out {out}",
        "report {bundle} --data {frames}",
    ],
)
def test_with_valid_paths_a_missing_torch_is_one_line(command: str, paths: dict[str, str]) -> None:
    done = CliRunner().invoke(app, command.format(**paths).split())
    assert (done.exit_code, done.stderr) == (
        2,
        f"model-builder: this needs torch; {how_to_install('build')}\n",
    )


@pytest.mark.parametrize("command", ["live --bundle {none}", "compare --bundle {none}"])
def test_a_missing_bundle_is_refused_before_packages_are_imported(command: str, paths: dict[str, str]) -> None:
    done = CliRunner().invoke(simulator, command.format(**paths).split())
    assert done.exit_code == 2 and paths["none"] in done.stderr and "needs" not in done.stderr

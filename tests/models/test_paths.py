"""A path that cannot be used is refused before anything is asked for that may not be installed."""

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
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Paths that can be used, and one that is a file in the place of a directory; torch is not installed."""
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
    ("command", "told"),
    [
        ("build --full {none} --data {frames} --out {out}", "--full {none} is not there"),
        ("build --full {file} --data {none} --out {out}", "--data {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --held-out {none}", "--held-out {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --labels {none}", "--labels {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --scenes {none}", "--scenes {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --base {none}", "--base {none} is not there"),
        ("build --full {file} --data {frames} --out {out} --key {none}", "--key {none} is not there"),
        ("build --full {file} --data {frames} --out {below}", "--out {below}: {file} is no directory"),
        ("build --full {file} --data {frames} --out {frames}", "{frames} is there and is no bundle"),
        ("build --full {file} --data {file} --out {out}", "{file} is neither a directory nor a video"),
        ("train --out {below}", "--out {below}: {file} is no directory"),
        ("specialise {none} --data {frames} --prepare", "{none}"),
        ("specialise {bundle} --data {frames} --recent {none} --out {out}", "--recent {none} is not there"),
        ("add-size {none} --share 0.1 --data {frames} --out {out}", "{none}"),
        ("add-size {bundle} --share 0.1 --data {none} --out {out}", "--data {none} is not there"),
        ("layers {bundle} --data {none} --out {out}", "--data {none} is not there"),
        ("layers {bundle} --data {frames} --out {frames}", "{frames} is there and is no bundle"),
        ("prove {bundle} --held-out {none} --out {out}", "--held-out {none} is not there"),
        ("report {none}", "{none}"),
        ("report {bundle} --data {none}", "--data {none} is not there"),
        ("report {bundle} --html {below}", "--html {below}: {file} is no directory"),
        ("inspect --full {none} --data {frames}", "--full {none} is not there"),
        ("sign {bundle} --key {none}", "--key {none} is not there"),
    ],
)
def test_a_path_is_refused_before_torch_is_asked_for(command: str, told: str, there: dict[str, str]) -> None:
    done = CliRunner().invoke(app, command.format(**there).split())
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert told.format(**there) in done.stderr and "torch" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "build --full {file} --data {frames} --out {out}",
        "train --out {out}",
        "specialise {bundle} --data {frames} --prepare",
        "add-size {bundle} --share 0.1 --data {frames} --out {out}",
        "layers {bundle} --data {frames} --out {out}",
        "prove {bundle} --held-out {frames} --out {out}",
        "report {bundle} --data {frames}",
    ],
)
def test_where_the_paths_are_right_torch_is_asked_for(command: str, there: dict[str, str]) -> None:
    done = CliRunner().invoke(app, command.format(**there).split())
    assert (done.exit_code, done.stderr) == (
        2,
        f"model-builder: this needs torch; {how_to_install('build')}\n",
    )


@pytest.mark.parametrize("command", ["live --specialise --bundle {none}", "compare --bundle {none}"])
def test_a_bundle_that_is_none_is_refused_before_packages_are_asked_for(command: str, there: dict[str, str]) -> None:
    done = CliRunner().invoke(simulator, command.format(**there).split())
    assert done.exit_code == 2 and there["none"] in done.stderr and "needs" not in done.stderr

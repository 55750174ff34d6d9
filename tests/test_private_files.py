"""No private key that a command makes can be committed by ``git add .``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app as server
from cachenet.models.cli import app as builder

ROOT = Path(__file__).parents[1]
COMMANDS = [
    pytest.param(server, ["provision", "cam", "--host", "b"], "deployment/ca.key", id="provision"),
    pytest.param(builder, ["keys"], "keys/targets.key", id="keys"),
]


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty git repository of a user is the working directory."""
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")


@pytest.mark.parametrize(("app", "command", "secret"), COMMANDS)
def test_git_sees_nothing_in_a_directory_of_keys(app: object, command: list[str], secret: str) -> None:
    assert CliRunner().invoke(app, command).exit_code == 0  # type: ignore[arg-type]
    assert Path(secret).exists()
    assert git("status", "--porcelain", "--untracked-files=all") == ""


@pytest.mark.parametrize(("app", "command", "secret"), COMMANDS)
def test_files_that_a_user_keeps_beside_keys_stay_visible_to_git(app: object, command: list[str], secret: str) -> None:
    directory = Path(secret).parent
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    assert CliRunner().invoke(app, command).exit_code == 0  # type: ignore[arg-type]
    assert f"{directory}/notes.txt" in git("status", "--porcelain", "--untracked-files=all")


def test_a_deployment_of_an_earlier_version_is_ignored_from_the_next_run_on() -> None:
    assert CliRunner().invoke(server, ["provision", "cam", "--host", "b"]).exit_code == 0
    Path("deployment/.gitignore").unlink()
    assert CliRunner().invoke(server, ["provision"]).exit_code == 0
    assert git("status", "--porcelain", "--untracked-files=all") == ""


@pytest.mark.parametrize("directory", ["deployment", "keys", "docker/deployment"])
def test_this_repository_ignores_what_the_commands_make_by_default(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this copy of the project is no git repository")
    monkeypatch.chdir(ROOT)
    assert git("check-ignore", f"{directory}/some.key").strip() == f"{directory}/some.key"

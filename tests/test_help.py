"""Every option of every command says what holds where it is not given; every program says its version."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from cachenet.cloud_server.settings import Settings as ServerSettings
from cachenet.edge_agent.settings import Settings as AgentSettings
from cachenet.shared.command import config
from cachenet.shared.command.version import VERSION
from tests.test_walls import COMMANDS, subcommands

SETTINGS = {"edge_agent": AgentSettings, "cloud_server": ServerSettings}


def command_line(package: str) -> Any:
    module = importlib.import_module(f"{package}.cli")
    return typer.main.get_command(module.app)


def options(package: str) -> Iterator[tuple[str, str, str]]:
    """Command, option and the help that is shown of it, of every command."""
    group = command_line(package)
    for (name,) in subcommands(group):
        command = group.commands[name]
        context = command.make_context(name, [], resilient_parsing=True)
        for parameter in command.params:
            if parameter.param_type_name == "option":
                flags, shown = parameter.get_help_record(context)
                yield name, flags, shown


@pytest.mark.parametrize("package", COMMANDS)
def test_every_option_tells_its_default_or_is_required_and_names_its_subject(package: str) -> None:
    found = list(options(package))
    assert found
    for command, flags, shown in found:
        where = f"{COMMANDS[package]} {command} {flags}: {shown}"
        assert re.search(r"default|required", shown), where
        assert not re.match(r"(Of|The same|How|What|Where|Which|Use|Only|Its|It)\b", shown), where
        assert shown.count("default:") <= 1, where


@pytest.mark.parametrize("package", SETTINGS)
def test_the_defaults_in_the_help_are_those_of_the_settings(package: str) -> None:
    """Of numbers and words; the rest is told in words."""
    shown = {flags.split()[0].rstrip(","): text for command, flags, text in options(package) if command == "run"}
    compared = 0
    for field in msgspec.structs.fields(SETTINGS[package]):
        if field.name not in config.flags_of(SETTINGS[package]):
            continue
        text = shown.get(f"--{field.name.replace('_', '-')}", "")
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool) and field.default:
            assert f"[default: {field.default}" in text
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("package", COMMANDS)
def test_every_program_says_its_version(package: str) -> None:
    done = CliRunner().invoke(importlib.import_module(f"{package}.cli").app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"{COMMANDS[package]} {VERSION}\n")


def test_the_builder_says_its_version_where_torch_is_not_installed() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['torch'] = None; import cachenet.models.cli; cachenet.models.cli.main()",
            "--version",
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout == f"model-builder {VERSION}\n"

"""Every option of every command says what holds where it is not given; every program says its version."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
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
from cachenet.models.build_config import BuildSettings
from cachenet.shared.command import config
from cachenet.shared.command.version import VERSION
from tests.test_walls import COMMANDS, subcommands

SETTINGS: dict[str, type[msgspec.Struct]] = {
    "cachenet.edge_agent": AgentSettings,
    "cachenet.cloud_server": ServerSettings,
    "cachenet.models": BuildSettings,
}
#: Flags of each program whose default is a number or a word.
WITH_DEFAULT = {
    "cachenet.edge_agent": {"max_disagreement", "max_object_error", "mode", "deadline_ms", "provider"},
    "cachenet.cloud_server": {"broker", "executor", "listen", "port", "provider", "work"},
    "cachenet.models": {"frame_step", "decoder", "submodels", "epochs", "precision"},
}


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
    with_settings = ("run", "build")
    shown = {flags.split()[0].rstrip(","): text for name, flags, text in options(package) if name in with_settings}
    compared = set()
    for field in msgspec.structs.fields(SETTINGS[package]):
        if field.name not in config.flags_of(SETTINGS[package]):
            continue
        text = shown.get(f"--{field.name.replace('_', '-')}", "")
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool) and field.default:
            assert f"[default: {field.default}" in text
            compared.add(field.name)
    assert compared == WITH_DEFAULT[package]


def examples(text: str) -> Iterator[list[str]]:
    """Words of each command in the paragraphs of a help text that start with ``Example:``."""
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.strip().startswith("Example:"):
            for command in paragraph.strip().removeprefix("Example:").split("&&"):
                yield shlex.split(command)


def unknown_words(words: list[str]) -> list[str]:
    """The program, command, options and keys of ``--set`` in a command line that do not exist."""
    package = next((package for package, program in COMMANDS.items() if program == words[0]), "")
    command = command_line(package).commands.get(words[1]) if package else None
    if command is None:
        return words[:2]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words[2:] if word.startswith("-") and word.partition("=")[0] not in known]
    keys = [after.partition("=")[0] for word, after in itertools.pairwise(words) if word == "--set"]
    return unknown + [key for key in keys if key not in SETTINGS[package].__struct_fields__]


@pytest.mark.parametrize("package", COMMANDS)
def test_every_option_in_an_example_exists(package: str) -> None:
    group = command_line(package)
    texts = [group.help, *(group.commands[name].help for (name,) in subcommands(group))]
    found = [words for text in texts for words in examples(text)]
    assert len(found) >= len(texts)
    wrong = {" ".join(words): unknown for words in found if (unknown := unknown_words(words))}
    assert not wrong


def test_an_option_that_does_not_exist_is_found() -> None:
    [first, second] = examples(
        "About.\n\nExample: edge-agent run a.mp4 --record b --set c=1 &&\nedge-agent fly\n\nEnd."
    )
    assert unknown_words(first) == ["--record", "c"]
    assert unknown_words(second) == ["edge-agent", "fly"]


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

"""Settings: sources and their precedence; invalid settings are refused with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cachenet.cloud_server import cli as cloud_server
from cachenet.cloud_server.settings import Settings as Server
from cachenet.edge_agent import cli as edge_agent
from cachenet.edge_agent.settings import Settings as Agent
from cachenet.models import cli as model_builder
from cachenet.models.build_config import BuildSettings
from cachenet.shared.command.config import ConfigError, default_of, flags_of, load, show, table, to_toml
from cachenet.shared.command.options import program, with_settings

PROGRAMS: dict[str, tuple[typer.Typer, type[msgspec.Struct]]] = {
    "edge-agent run": (edge_agent.app, Agent),
    "cloud-server run": (cloud_server.app, Server),
    "model-builder build": (model_builder.app, BuildSettings),
}


class Settings(msgspec.Struct, frozen=True):
    REPLACED: ClassVar[dict[str, str]] = {"mark": "use {broker}"}

    broker: str = "mqtt://localhost"
    deadline_ms: int = 100
    novelty: bool = True
    levels: tuple[str, ...] = ("frames", "base")
    budget: float | None = None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('broker = "mqtt://file"\ndeadline_ms = 1\nlevels = ["file"]\n')
    return path


ENVIRONMENT = {"CACHENET_DEADLINE_MS": "2", "CACHENET_LEVELS": "a, b", "CACHENET_PASSWORD": "not ours", "PATH": "/"}


ASSIGNMENTS = ["deadline_ms=9", 'levels=["x"]', "budget = 0.5", "deadline_ms=4"]


def test_flags_over_assignments_over_environment_over_file(file: Path) -> None:
    assigned = load(Settings, {}, file, ENVIRONMENT, ASSIGNMENTS)
    assert assigned == Settings("mqtt://file", 4, True, ("x",), 0.5), "and the last assignment of a key counts"
    assert load(Settings, {"deadline_ms": 3}, file, ENVIRONMENT, ASSIGNMENTS).deadline_ms == 3


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        pytest.param("broker=mqtt://host", Settings(broker="mqtt://host"), id="bare text"),
        pytest.param('broker="mqtt://host"', Settings(broker="mqtt://host"), id="TOML string"),
        pytest.param("broker=12", Settings(broker="12"), id="a number for text"),
        pytest.param("broker=1979-05-27", Settings(broker="1979-05-27"), id="a date for text"),
        pytest.param("broker=1\ndeadline_ms=2", Settings(broker="1\ndeadline_ms=2"), id="one key alone"),
        pytest.param("broker=a=b", Settings(broker="a=b"), id="an equals sign"),
        pytest.param("broker=", Settings(broker=""), id="empty"),
        pytest.param("novelty=false", Settings(novelty=False), id="boolean"),
        pytest.param("levels=a,b", Settings(levels=("a", "b")), id="list by commas"),
        pytest.param("budget=1e-3", Settings(budget=0.001), id="number"),
    ],
)
def test_an_assigned_value_is_toml_or_text(assignment: str, expected: Settings) -> None:
    assert load(Settings, {}, environment={}, assignments=[assignment]) == expected


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("deadline=1", "--set: unknown key 'deadline'; did you mean deadline_ms?"),
        ("deadline-ms=1", "--set: unknown key 'deadline-ms'; did you mean deadline_ms?"),
        ("zoom=1", "--set: unknown key 'zoom'"),
        ("deadline_ms=[1]", "--set deadline_ms: Expected `int`, got `array`"),
        ("deadline_ms", "--set deadline_ms: write KEY=VALUE"),
        ("deadline_ms=soon", "--set deadline_ms: Expected `int`, got `str`"),
        ("old=1", "--set: key 'old' no longer exists: use broker"),
        ("older-name=1", "--set: key 'older-name' no longer exists: use rate"),
        ('camera=[{mark="x", broker="b"}]', "--set camera: key 'mark' no longer exists: use broker"),
        ('camera=[{brokr="x"}]', "--set camera: unknown key 'brokr'; did you mean broker?"),
        ("camera={}", "--set camera: Expected `array`, got `object`"),
        ('camera=[{deadline_ms="x"}]', "--set camera: Expected `int`, got `str` - at `$[0].deadline_ms`"),
    ],
)
def test_an_invalid_assignment_is_one_line_that_names_the_key(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        kind = Described if assignment.startswith(("old", "camera")) else Settings
        load(kind, {}, environment={}, assignments=[assignment])
    assert str(refused.value) == message


Rate = Annotated[float, msgspec.Meta(gt=0)]


class Described(msgspec.Struct, frozen=True):
    REPLACED: ClassVar[dict[str, str]] = {"old": "use {broker}", "older_name": "use {rate}"}
    FILE_ONLY: ClassVar[frozenset[str]] = frozenset({"rate"})

    source: Annotated[str, msgspec.Meta(description="Video to read.")] = ""
    broker: Annotated[str, msgspec.Meta(description="Address of the broker (default: this host).")] = ""
    rate: Annotated[Rate | None, msgspec.Meta(description="Frame rate, frames per second.")] = None
    sizes: Annotated[tuple[int, ...], msgspec.Meta(description="Sizes of a|b.")] = (1, 2)
    camera: tuple[Settings, ...] = ()


def test_a_setting_has_a_flag_unless_it_is_file_only_or_a_table() -> None:
    assert flags_of(Described) == ["source", "broker", "sizes"]


def test_the_table_lists_every_setting_with_flag_default_and_description() -> None:
    assert table(Described).splitlines()[2:] == [
        "| `source` | `--source` | none | Video to read. |",
        "| `broker` | `--broker` | this host | Address of the broker. |",
        "| `rate` |  | none | Frame rate, frames per second. |",
        "| `sizes` | `--sizes` | 1,2 | Sizes of a\\|b. |",
        "| `camera` |  | none |  |",
    ]
    assert default_of(Described, "sizes") == ("1,2", "Sizes of a|b.")


def test_print_config_describes_each_setting() -> None:
    assert "# Frame rate, frames per second.\n# rate =\n" in show(Described())


@pytest.fixture
def command() -> typer.Typer:
    app = program("tool", Described)

    @app.command()
    @with_settings(Described, "tool", argument="source")
    def run(settings: Described, verbose: Annotated[bool, typer.Option("-v", help="Log more.")] = False) -> None:
        """Run."""
        typer.echo(f"{settings.source} {settings.broker} {settings.rate} {settings.sizes} {verbose}")

    @app.command()
    def other() -> None:
        """Do nothing."""

    return app


def test_a_command_takes_settings_from_flags_assignments_and_file(command: typer.Typer, file: Path) -> None:
    file.write_text("rate = 2.0\n")
    arguments = ["run", "clip", "--sizes", "3,4", "--sizes", "5", "--config", str(file), "--set", "broker=b", "-v"]
    done = CliRunner().invoke(command, arguments)
    assert done.output == "clip b 2.0 (3, 4, 5) True\n"


def test_the_help_of_a_command_shows_the_flags_alone(command: typer.Typer) -> None:
    text = " ".join(CliRunner().invoke(command, ["run", "--help"]).output.split())
    assert "--rate" not in text
    for shown in (
        "Video to read.",
        "Address of the broker. [default: this host]",
        "Sizes of a|b. [default: 1,2]",
        "--set KEY=VALUE",
        "--print-config",
    ):
        assert shown in text


@pytest.mark.parametrize("value", ["rate=soon", "rate=-1", "rat=1", "rate"])
def test_a_command_refuses_an_assignment_with_one_line_and_exit_code_2(command: typer.Typer, value: str) -> None:
    done = CliRunner().invoke(command, ["run", "--set", value])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(("tool: --set rat", "tool: --set: unknown key 'rat'; did you mean rate?"))
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--rate", "1"], "--rate is a setting without a flag: use --set rate=VALUE"),
        (["run", "--rate=1"], "--rate is a setting without a flag: use --set rate=VALUE"),
        (["run", "--no-camera"], "--no-camera is a setting without a flag: use --set camera=VALUE"),
        (["run", "--older-name", "1"], "--older-name no longer exists: use --set rate=VALUE"),
        (["run", "--old", "1"], "--old no longer exists: use --broker"),
        (["run", "--rat", "1"], "No such option: --rat"),
        (["other", "--rate", "1"], "No such option: --rate"),
    ],
)
def test_an_option_that_is_no_flag_is_refused_with_what_to_write(
    command: typer.Typer, arguments: list[str], message: str
) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert message.startswith("No such") or "Possible options" not in done.stderr


def test_each_setting_without_a_flag_is_named_with_its_key_and_its_replaced_names_with_what_to_write() -> None:
    for name in ("edge-agent run", "cloud-server run", "model-builder build"):
        app, kind = PROGRAMS[name]
        for own in set(kind.__struct_fields__) - set(flags_of(kind)):
            done = CliRunner().invoke(app, [name.split()[1], "--" + own.replace("_", "-"), "x"])
            assert f"use --set {own}=VALUE" in done.stderr
    for name, old, new in (
        ("model-builder build", "--least", "--set min_coverage=VALUE"),
        ("model-builder build", "--refining", "--set refine_epochs=VALUE"),
        ("model-builder build", "--every", "--frame-step"),
        ("cloud-server run", "--layer" + "-caches", "--set early_exits=VALUE"),
        ("edge-agent run", "--layer" + "-caches", "--set early_exits=VALUE"),
    ):
        done = CliRunner().invoke(PROGRAMS[name][0], [name.split()[1], old, "1"])
        assert f"{old} no longer exists: use {new}" in done.stderr


def test_a_key_of_an_earlier_version_in_a_table_of_the_file_is_refused_with_its_replacement(file: Path) -> None:
    old = "fli" + "ght"
    file.write_text(f'[[camera]]\nname = "a"\nsource = "camera:0"\n{old} = "x"\n')
    with pytest.raises(ConfigError, match=f"settings.toml: camera: key '{old}' no longer exists: use decision_log"):
        load(Agent, {}, file, {})
    assignment = f'camera=[{{name="a",source="camera:0",{old}="x"}}]'
    with pytest.raises(ConfigError, match=f"--set camera: key '{old}' no longer exists: use decision_log"):
        load(Agent, {}, environment={}, assignments=[assignment])


def test_flags_over_environment_over_file_over_defaults(file: Path) -> None:
    assert load(Settings, {}, environment={}) == Settings()
    assert load(Settings, {}, file, {}) == Settings("mqtt://file", 1, True, ("file",))
    assert load(Settings, {}, file, ENVIRONMENT) == Settings("mqtt://file", 2, True, ("a", "b"))
    flags = {"deadline_ms": 3, "novelty": None}
    assert load(Settings, flags, file, ENVIRONMENT) == Settings("mqtt://file", 3, True, ("a", "b"))


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHENET_NOVELTY", "false")
    assert load(Settings, {}).novelty is False


def test_a_false_flag_counts_and_an_absent_one_does_not() -> None:
    assert load(Settings, {"novelty": False}, environment={"CACHENET_NOVELTY": "true"}).novelty is False
    assert load(Settings, {"novelty": None}, environment={"CACHENET_NOVELTY": "0"}).novelty is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("brokr = 'x'", "unknown key 'brokr'; did you mean broker?", id="unknown key"),
        pytest.param("[edge]\nbroker = 'x'", "unknown key 'edge'", id="unknown table"),
        pytest.param("deadline_ms = 'soon'", "deadline_ms", id="wrong type"),
        pytest.param("levels = 3", "levels", id="wrong shape"),
        pytest.param("broker =", "not TOML", id="not TOML"),
        pytest.param("broker = 'x'\nbroker = 'y'", "not TOML", id="the same key twice"),
    ],
)
def test_an_invalid_file_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(Settings, {}, path, {})
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(Settings, {}, tmp_path / "none.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"broker = '\xff'")
    with pytest.raises(ConfigError, match="not TOML"):
        load(Settings, {}, tmp_path / "binary.toml", {})


def test_the_source_of_a_bad_value_is_named() -> None:
    with pytest.raises(ConfigError, match="CACHENET_DEADLINE_MS"):
        load(Settings, {}, environment={"CACHENET_DEADLINE_MS": "soon"})
    with pytest.raises(ConfigError, match="--deadline-ms"):
        load(Settings, {"deadline_ms": "soon"}, environment={})


def test_a_misspelt_variable_is_an_error_and_not_a_default() -> None:
    for slip in ("CACHENET_BROKR", "CACHENET_DEADLINE", "CACHENET_LEVEL"):
        with pytest.raises(ConfigError, match=f"{slip}: no such variable; did you mean CACHENET_"):
            load(Settings, {}, environment={slip: "1"})


@pytest.mark.parametrize("kind", [Agent, Server])
def test_variables_of_one_program_are_no_error_in_the_other(kind: type[msgspec.Struct]) -> None:
    names = [name for other in (Agent, Server) for name in other.__struct_fields__]
    others = {f"CACHENET_{name.upper()}": "" for name in names if name not in kind.__struct_fields__}
    deployment = dict.fromkeys(["CACHENET_CACHE", "CACHENET_CAMERA", "CACHENET_GID", "CACHENET_PASSWORD"], "")
    assert load(kind, {}, environment=others | deployment) == kind()


settings = st.builds(
    Settings,
    st.text(),
    st.integers(-(2**53), 2**53),
    st.booleans(),
    st.lists(st.text(), max_size=4).map(tuple),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(settings)
def test_printed_settings_are_read_back(tmp_path_factory: pytest.TempPathFactory, chosen: Settings) -> None:
    path = tmp_path_factory.getbasetemp() / "printed.toml"
    path.write_text(to_toml(chosen), "utf-8")
    assert load(Settings, {}, path, {}) == chosen


def test_printed_settings_are_complete() -> None:
    assert to_toml(Settings()) == (
        'broker = "mqtt://localhost"\ndeadline_ms = 100\nnovelty = true\nlevels = ["frames","base"]\n# budget =\n'
    )

"""Settings: where each comes from, and that what cannot be is refused with one line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.settings import Settings as Server
from cachenet.edge_agent.settings import Settings as Agent
from cachenet.shared.command.config import ConfigError, load, to_toml


class Settings(msgspec.Struct, frozen=True):
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


def test_flags_over_environment_over_file_over_defaults(file: Path) -> None:
    assert load(Settings, {}, environment={}) == Settings()
    assert load(Settings, {}, file, {}) == Settings("mqtt://file", 1, True, ("file",))
    assert load(Settings, {}, file, ENVIRONMENT) == Settings("mqtt://file", 2, True, ("a", "b"))
    flags = {"deadline_ms": 3, "novelty": None}
    assert load(Settings, flags, file, ENVIRONMENT) == Settings("mqtt://file", 3, True, ("a", "b"))


def test_the_process_environment_is_read_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHENET_NOVELTY", "false")
    assert load(Settings, {}).novelty is False


def test_a_false_flag_was_given_and_an_absent_one_was_not() -> None:
    assert load(Settings, {"novelty": False}, environment={"CACHENET_NOVELTY": "true"}).novelty is False
    assert load(Settings, {"novelty": None}, environment={"CACHENET_NOVELTY": "0"}).novelty is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("brokr = 'x'", "unknown key 'brokr'", id="unknown key"),
        pytest.param("[edge]\nbroker = 'x'", "unknown key 'edge'", id="unknown table"),
        pytest.param("deadline_ms = 'soon'", "deadline_ms", id="wrong type"),
        pytest.param("levels = 3", "levels", id="wrong shape"),
        pytest.param("broker =", "not TOML", id="not TOML"),
        pytest.param("broker = 'x'\nbroker = 'y'", "not TOML", id="the same key twice"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(Settings, {}, path, {})
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
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
def test_the_variables_of_one_program_are_no_slip_to_the_other(kind: type[msgspec.Struct]) -> None:
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
def test_what_is_printed_is_read_back(tmp_path_factory: pytest.TempPathFactory, chosen: Settings) -> None:
    path = tmp_path_factory.getbasetemp() / "printed.toml"
    path.write_text(to_toml(chosen), "utf-8")
    assert load(Settings, {}, path, {}) == chosen


def test_what_is_printed_shows_every_setting() -> None:
    assert to_toml(Settings()) == (
        'broker = "mqtt://localhost"\ndeadline_ms = 100\nnovelty = true\nlevels = ["frames","base"]\n# budget =\n'
    )

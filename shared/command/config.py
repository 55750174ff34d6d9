"""Settings of a program: one msgspec struct, filled from flags over ``CACHENET_*`` variables over a TOML file over
its own defaults. Unknown keys are refused, so that a typing error is an error and not a default."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import as_text
from cachenet.shared.transport.addresses import without_passwords

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

T = TypeVar("T", bound=msgspec.Struct)
PREFIX = "CACHENET_"
#: How much alike, from 0 to 1, a variable and a setting are where one was meant to be the other.
_SLIP = 0.9


class ConfigError(UserError, ValueError):
    """A setting that cannot be; one line that names it and its source."""


def load(
    kind: type[T], flags: Mapping[str, Any], file: Path | None = None, environment: Mapping[str, str] | None = None
) -> T:
    """Fill ``kind``. Flags that are None were not given. Raises ``ConfigError``.

    ``kind.REPLACED``, where there is one, names settings of earlier versions; see ``replaced``.
    """
    names = [field.name for field in msgspec.structs.fields(kind)]
    variables = os.environ if environment is None else environment
    settings = _read(kind, names, file) if file else {}
    known = {PREFIX + name.upper(): name for name in names}
    for variable in variables:
        if variable.startswith(PREFIX) and (why := replaced(kind, variable[len(PREFIX) :].lower(), variable)):
            raise ConfigError(why)
    _refuse_slips(variables, list(known))
    for variable, name in known.items():
        if (text := variables.get(variable)) is not None:
            settings[name] = _convert(kind, name, text, variable)
    for name, value in flags.items():
        if value is not None:
            settings[name] = _convert(kind, name, value, "--" + name.replace("_", "-"))
    try:
        return msgspec.convert(settings, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error)) from None


def replaced(kind: type[msgspec.Struct], name: str, spelled: str) -> str:
    """Why a setting of an earlier version is refused, and which setting to use; empty for any other.

    Args:
        kind: The settings; ``kind.REPLACED`` says what to use for each name, with names of settings in braces.
        name: Of the setting.
        spelled: The same as the user wrote it: a flag, a variable or a key of a file.
    """
    said = getattr(kind, "REPLACED", {}).get(name)
    if said is None:
        return ""
    fields = kind.__struct_fields__
    if spelled.startswith("--"):
        spellings = {own: "--" + own.replace("_", "-") for own in fields}
    elif spelled.startswith(PREFIX):
        spellings = {own: PREFIX + own.upper() for own in fields}
    else:
        spellings = {own: own for own in fields}
    return f"{spelled} no longer exists: {said.format_map(spellings)}"


def _refuse_slips(variables: Iterable[str], known: list[str]) -> None:
    """Refuse a variable that is one of ``known`` but for a slip. Others may be meant for another program that is
    started from the same file of variables."""
    for name in variables:
        if name.startswith(PREFIX) and name not in known and (meant := get_close_matches(name, known, 1, _SLIP)):
            raise ConfigError(f"{name}: no such variable; did you mean {meant[0]}?")


def _read(kind: type[msgspec.Struct], names: list[str], file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    for name in found:
        if why := replaced(kind, name, f"key {name!r}"):
            raise ConfigError(f"{file}: {why}")
    if unknown := sorted(set(found) - set(names)):
        raise ConfigError(f"{file}: unknown key {unknown[0]!r}; known are {', '.join(names)}")
    return {name: _convert(kind, name, value, f"{file}: {name}") for name, value in found.items()}


def _convert(kind: type[msgspec.Struct], name: str, value: Any, source: str) -> Any:
    wanted = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    if isinstance(value, str) and getattr(wanted, "__origin__", None) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}{_choices(wanted)}") from None


def _choices(wanted: Any) -> str:
    """What may be said, where that is a list of words."""
    words = get_args(wanted)
    if getattr(wanted, "__origin__", None) is tuple:
        words = get_args(words[0])
    return f"; choose of {', '.join(words)}" if words and all(isinstance(word, str) for word in words) else ""


def to_toml(settings: msgspec.Struct) -> str:
    """The settings as a TOML file that ``load`` reads back; what is None is left out as a comment."""
    lines, tables = [], []
    kinds = {field.name: get_args(field.type)[:1] for field in msgspec.structs.fields(settings)}
    for name, value in as_text(msgspec.to_builtins(settings)).items():
        if any(isinstance(kind, type) and issubclass(kind, msgspec.Struct) for kind in kinds[name]):
            tables += [line for table in value for line in ("", f"[[{name}]]", *_lines(table))]
        else:
            lines += _lines({name: value})
    return "\n".join(lines + tables) + "\n"


def show(settings: msgspec.Struct) -> str:
    """The settings as ``--print-config`` prints them: a TOML file without what may hold a password in addresses."""
    shown = without_passwords(settings)
    note = "" if shown == settings else '# "..." takes the place of what may hold a password.\n'
    return note + to_toml(shown)


def _lines(values: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in values.items():
        # JSON's values are TOML's, but for one character that TOML wants escaped.
        text = msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")
        lines.append(f"# {name} =" if value is None else f"{name} = {text}")
    return lines


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of ``9100`` (this machine only) or ``0.0.0.0:9100``. Raises ``ConfigError``."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"{text!r} is no port; write 9100, or 0.0.0.0:9100 for other machines to read it")
    return host or "127.0.0.1", int(port)

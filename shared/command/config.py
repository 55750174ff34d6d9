"""Settings of a command: one msgspec struct, filled from flags, ``--set``, ``CACHENET_*`` variables and a TOML file.

The first of these that has a setting decides; the struct has the defaults. Unknown keys are refused.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

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
#: Similarity from 0 to 1 (``difflib``) above which an unknown variable counts as a misspelt setting.
_SIMILAR = 0.9
#: A default that a description states itself.
_STATED_DEFAULT = re.compile(r"\s*\(default: (.*?)\)")


class ConfigError(UserError, ValueError):
    """A setting with an invalid name or value. The message is one line that names the setting and its source."""


def load(
    kind: type[T],
    flags: Mapping[str, Any],
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
) -> T:
    """Fill a settings struct; flags override assignments, these override variables, these override the file.

    Args:
        kind: The settings struct. ``kind.REPLACED`` may name settings of earlier versions; see ``replaced``.
        flags: Values of command-line flags by setting name; None where the flag is absent.
        file: TOML file with settings.
        environment: Environment variables (default: those of the process).
        assignments: Arguments of ``--set``, each ``KEY=VALUE``; the last one of a key counts.

    Raises:
        ConfigError: A name is unknown, or a value does not fit its setting.
    """
    names = list(kind.__struct_fields__)
    variables = os.environ if environment is None else environment
    settings = _read(kind, file) if file else {}
    known = {PREFIX + name.upper(): name for name in names}
    for variable in variables:
        if variable.startswith(PREFIX) and (why := replaced(kind, variable[len(PREFIX) :].lower(), variable)):
            raise ConfigError(why)
    _refuse_misspelt(variables, list(known))
    for variable, name in known.items():
        if (text := variables.get(variable)) is not None:
            settings[name] = convert(kind, name, text, variable)
    settings |= assigned(kind, assignments)
    for name, value in flags.items():
        if value is not None:
            settings[name] = convert(kind, name, value, flag(name))
    try:
        return msgspec.convert(settings, kind, strict=False)
    except msgspec.ValidationError as error:
        missing = re.fullmatch(r"Object missing required field `(\w+)`", str(error))
        raise ConfigError(f"{flag(missing[1])} is missing" if missing else str(error)) from None


def flag(name: str) -> str:
    """The command-line flag of the setting ``name``."""
    return "--" + name.replace("_", "-")


def flags_of(kind: type[msgspec.Struct]) -> list[str]:
    """Names of the settings that commands show as flags: all but ``kind.FILE_ONLY`` and tables such as ``[[camera]]``.

    A setting of ``FILE_ONLY`` is set by the TOML file, its variable or ``--set``.
    """
    file_only = getattr(kind, "FILE_ONLY", ())
    fields = msgspec.structs.fields(kind)
    return [field.name for field in fields if field.name not in file_only and not _is_table(field.type)]


def default_of(kind: type[msgspec.Struct], name: str) -> tuple[str, str]:
    """Default of the setting ``name`` as text, and its description without it.

    The description is the field's ``msgspec.Meta(description=...)``. A description that ends with ``(default: ...)``
    states the default itself, for values that depend on the machine.
    """
    found = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    metadata = getattr(found.type, "__metadata__", ())
    description = next((meta.description for meta in metadata if getattr(meta, "description", None)), "")
    if (stated := _STATED_DEFAULT.search(description)) is not None:
        return stated[1], _STATED_DEFAULT.sub("", description)
    if found.required:
        return "required", description
    value = found.default if found.default_factory is msgspec.NODEFAULT else found.default_factory()
    return as_words(value), description


def as_words(value: Any) -> str:
    """The value of a setting as help texts show it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)


def table(kind: type[msgspec.Struct]) -> str:
    """All settings as a Markdown table: key, flag if it has one, default, description."""
    shown = flags_of(kind)
    rows = ["| setting | flag | default | meaning |", "|---|---|---|---|"]
    for name in kind.__struct_fields__:
        default, description = default_of(kind, name)
        cells = (f"`{name}`", f"`{flag(name)}`" if name in shown else "", default, description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def assigned(kind: type[msgspec.Struct], assignments: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Settings of ``--set KEY=VALUE``: VALUE is TOML, or else text.

    Args:
        option: Name of the option, for messages.

    Raises:
        ConfigError: A name is unknown, or a value does not fit its setting.
    """
    settings = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise ConfigError(f"{option} {name}: write KEY=VALUE")
        _check_key(kind, name, option)
        try:
            parsed = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            parsed = {}
        value = parsed["value"] if len(parsed) == 1 else text
        try:
            settings[name] = convert(kind, name, value, f"{option} {name}")
        except ConfigError:
            if isinstance(value, dict | list):
                raise
            settings[name] = convert(kind, name, text, f"{option} {name}")
    return settings


def replaced(kind: type[msgspec.Struct], name: str, spelled: str) -> str:
    """Message that refuses a setting of an earlier version and names its replacement; empty for any other setting.

    Args:
        kind: The settings struct. ``kind.REPLACED`` maps an old name to advice, with names of settings in braces.
        spelled: The setting as the user wrote it: a flag, a variable or a key of a file.
    """
    advice = getattr(kind, "REPLACED", {}).get(name)
    if advice is None:
        return ""
    fields = kind.__struct_fields__
    if spelled.startswith("--"):
        shown = flags_of(kind)
        spellings = {own: flag(own) if own in shown else f"--set {own}=VALUE" for own in fields}
    elif spelled.startswith(PREFIX):
        spellings = {own: PREFIX + own.upper() for own in fields}
    else:
        spellings = {own: own for own in fields}
    return f"{spelled} no longer exists: {advice.format_map(spellings)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a message about the unknown key ``name``: the most similar key; empty if none is similar."""
    meant = get_close_matches(name.replace("-", "_"), known, 1)
    return f"; did you mean {meant[0]}?" if meant else ""


def _check_key(kind: type[msgspec.Struct], name: str, source: str) -> None:
    """Refuse a key that is no setting of ``kind``."""
    if name not in kind.__struct_fields__:
        why = replaced(kind, name.replace("-", "_"), f"key {name!r}")
        raise ConfigError(f"{source}: {why or f'unknown key {name!r}' + did_you_mean(name, kind.__struct_fields__)}")


def _refuse_misspelt(variables: Iterable[str], known: list[str]) -> None:
    """Refuse a variable that is close to one of ``known``. Other unknown variables may belong to another program."""
    for name in variables:
        if name.startswith(PREFIX) and name not in known and (meant := get_close_matches(name, known, 1, _SIMILAR)):
            raise ConfigError(f"{name}: no such variable; did you mean {meant[0]}?")


def _read(kind: type[msgspec.Struct], file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    for name in found:
        _check_key(kind, name, str(file))
    return {name: convert(kind, name, value, f"{file}: {name}") for name, value in found.items()}


def convert(kind: type[msgspec.Struct], name: str, value: Any, source: str) -> Any:
    """``value`` as the type of the setting ``name``; text for a list is separated by commas.

    Args:
        source: Where the value comes from, for the message.

    Raises:
        ConfigError: The value, or a key of a table in it, does not fit the setting.
    """
    wanted = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    _check_tables(wanted, value, source)
    if isinstance(value, str) and get_origin(_plain(wanted)) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}{_choices(wanted)}") from None


def _check_tables(wanted: Any, value: Any, source: str) -> None:
    """Refuse unknown keys in an array of tables, such as ``[[camera]]``, and in arrays of tables within it."""
    if not (_is_table(wanted) and isinstance(value, list | tuple)):
        return
    kind = get_args(_plain(wanted))[0]
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for table in value:
        for key, own in table.items() if isinstance(table, dict) else ():
            _check_key(kind, key, source)
            _check_tables(types[key], own, f"{source}.{key}")


def _plain(annotation: Any) -> Any:
    """A type without its ``Annotated`` metadata."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_table(annotation: Any) -> bool:
    """Whether the type is a tuple of structs: an array of tables in TOML."""
    element = next(iter(get_args(_plain(annotation))), None)
    return isinstance(element, type) and get_origin(element) is None and issubclass(element, msgspec.Struct)


def _choices(wanted: Any) -> str:
    """The valid values as text, where the type lists them."""
    words = get_args(_plain(wanted))
    if get_origin(_plain(wanted)) is tuple:
        words = get_args(_plain(words[0]))
    return f"; choose of {', '.join(words)}" if words and all(isinstance(word, str) for word in words) else ""


def to_toml(settings: msgspec.Struct, describe: bool = False) -> str:
    """The settings as a TOML file that ``load`` reads back. A setting that is None is a comment.

    Args:
        describe: Whether the description of each setting is a comment above it.
    """
    lines, tables = [], []
    types = {field.name: field.type for field in msgspec.structs.fields(settings)}
    for name, value in as_text(msgspec.to_builtins(settings)).items():
        if _is_table(types[name]):
            tables += _table_lines(name, types[name], value)
            continue
        if describe and (description := default_of(type(settings), name)[1]):
            lines.append(f"# {description}")
        lines += _lines({name: value})
    return "\n".join(lines + tables) + "\n"


def _table_lines(name: str, annotation: Any, tables: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines of an array of tables; arrays of tables within it, such as ``[[camera.zone]]``, follow their table."""
    kind = get_args(_plain(annotation))[0]
    types = {field.name: field.type for field in msgspec.structs.fields(kind) if _is_table(field.type)}
    lines = []
    for table in tables:
        lines += ["", f"[[{name}]]", *_lines({key: own for key, own in table.items() if key not in types})]
        for key, inner in types.items():
            lines += _table_lines(f"{name}.{key}", inner, table[key])
    return lines


def show(settings: msgspec.Struct) -> str:
    """The settings as ``--print-config`` prints them: a TOML file, with addresses shown without passwords."""
    shown = without_passwords(settings)
    note = "" if shown == settings else '# "..." takes the place of what may hold a password.\n'
    return note + to_toml(shown, describe=True)


def _lines(values: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in values.items():
        # JSON values are valid TOML, except that TOML requires an escape for DEL.
        text = msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")
        lines.append(f"# {name} =" if value is None else f"{name} = {text}")
    return lines


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of ``PORT`` (host 127.0.0.1) or ``HOST:PORT``. Raises ``ConfigError``."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ConfigError(f"{text!r} is no port; write 9100, or 0.0.0.0:9100 for other machines to read it")
    return host or "127.0.0.1", int(port)

"""Command-line options that the programs share: ``--version``, and the options of a command with settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import msgspec
import typer
from typer.core import TyperGroup

from cachenet.shared.command import config, exit
from cachenet.shared.command.version import VERSION

#: Error of a command line. Its module depends on the version of typer: click, or a copy inside typer.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _print_version(ctx: typer.Context, requested: bool) -> None:
    if requested:
        typer.echo(f"{ctx.command.name} {VERSION}")
        raise typer.Exit


#: Option of the callback of every program.
Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
]


#: Options that every command with settings has; see ``with_settings``.
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings; docs/configuration.md lists them all.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Setting by its key in the TOML file; VALUE is TOML or text. Repeat the option for more settings.",
    ),
]
PrintConfig = Annotated[bool, typer.Option(help="Print the settings in force as TOML and end.")]


def with_settings(
    kind: type[msgspec.Struct], name: str, argument: str = ""
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: give a command an option for each flag of ``kind``, and ``--config``, ``--set``, ``--print-config``.

    The decorated function takes the loaded settings as its first parameter, and its own options after it. The help of
    a flag is the field's ``msgspec.Meta(description=...)``; ``kind.FILE_ONLY`` names the settings without a flag.

    Args:
        name: Name of the program, for error messages.
        argument: Name of the setting that is a positional argument; empty for none.

    Example:
        @app.command()
        @with_settings(Settings, "edge-agent", argument="source")
        def run(settings: Settings, as_json: Json = False) -> None: ...
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        flags = config.flags_of(kind)
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        @functools.wraps(function)
        def command(config_file: Path | None, assignments: list[str] | None, print_config: bool, **values: Any) -> None:
            from_flags = {flag: _joined(values.pop(flag)) for flag in flags}
            try:
                settings = config.load(kind, from_flags, config_file, assignments=assignments or ())
            except config.ConfigError as error:
                exit.refuse(name, str(error))
            if print_config:
                typer.echo(config.show(settings), nl=False)
            else:
                function(settings, **values)

        def parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
            return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

        parameters = [
            *(parameter(flag, _flag_annotation(kind, flag, flag == argument)) for flag in flags),
            *(option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in own),
            parameter("config_file", ConfigFile),
            parameter("assignments", Assignments),
            parameter("print_config", PrintConfig, False),
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {option.name: option.annotation for option in parameters}
        return command

    return decorate


def _flag_annotation(kind: type[msgspec.Struct], name: str, positional: bool) -> Any:
    """The annotation with which typer makes the flag of a setting."""
    wanted = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    while get_origin(wanted) is Annotated or NoneType in get_args(wanted):
        wanted = next(part for part in get_args(wanted) if part is not NoneType)
    if get_origin(wanted) is tuple:
        shown: Any = list[str]
    else:
        shown = wanted if wanted in (bool, int, float) else str
    default, description = config.default_of(kind, name)
    if positional:
        return Annotated[shown | None, typer.Argument(help=description)]
    return Annotated[shown | None, typer.Option(help=f"{description}  [default: {default}]", show_default=False)]


def _joined(value: Any) -> Any:
    """The value of a flag; one that was repeated as text separated by commas."""
    return (",".join(value) if value else None) if isinstance(value, list | tuple) else value


def program(
    name: str, settings: type[msgspec.Struct] | None = None, aliases: Mapping[str, str] | None = None
) -> typer.Typer:
    """The command line of a program, without commands yet.

    The help of every option shows its default. The message about an option of an earlier version names its replacement
    (see ``config.replaced``), and the message about a setting without a flag names ``--set``.

    Args:
        settings: Settings of its commands.
        aliases: Other spellings of flags, without dashes, which help omits; None for ``settings.ALIASES``.
    """
    if aliases is None:
        aliases = getattr(settings, "ALIASES", {})

    class Group(TyperGroup):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            for command in self.commands.values():
                for parameter in command.params:
                    if parameter.param_type_name == "option":
                        _show_default(parameter)

        def invoke(self, ctx: Any) -> Any:
            try:
                return super().invoke(ctx)
            except _UsageError as error:
                option = getattr(error, "option_name", "")
                if settings is not None and (why := _advice(settings, option, getattr(error, "ctx", None))):
                    error.message, error.possibilities = why, None  # type: ignore[attr-defined]
                raise

    return typer.Typer(
        name=name,
        cls=Group,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"token_normalize_func": lambda flag: aliases.get(flag, flag)},
    )


def _advice(settings: type[msgspec.Struct], option: str, context: Any) -> str:
    """Message about an ``option`` of an earlier version, or of a setting without a flag; empty for any other option.

    Args:
        context: Context of the command that was called.
    """
    has_set = context is not None and any("--set" in parameter.opts for parameter in context.command.params)
    without_flag = set(settings.__struct_fields__).difference(config.flags_of(settings)) if has_set else ()
    name = option.lstrip("-").replace("-", "_")
    for known in (name, name.removeprefix("no_")):
        if why := config.replaced(settings, known, option):
            return why
        if known in without_flag:
            return f"{option} is a setting without a flag: use --set {known}=VALUE"
    return ""


def _show_default(option: Any) -> None:
    """Add the default to the help of ``option``, unless typer or the help itself shows one."""
    text = option.help or ""
    shown_by_typer = option.default not in (None, "") and not (option.is_flag and not option.secondary_opts)
    if not (option.required or shown_by_typer or "default" in text.lower()):
        option.help = f"{text}  [default: {'off' if option.is_flag else 'none'}]"

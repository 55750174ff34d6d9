"""What the command lines of all programs share: ``--version``, and the default of every option in its help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from cachenet.shared.command import config
from cachenet.shared.command.version import VERSION

#: Whatever is wrong with a command line; typer has it from click, or has a copy of its own, by version.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def _print_version(ctx: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{ctx.command.name} {VERSION}")
        raise typer.Exit


#: For the callback of every program.
Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
]


def program(name: str, settings: type[msgspec.Struct] | None = None) -> typer.Typer:
    """The command line of the program ``name``, without commands yet. In the help of every option that typer shows no
    default of stands the one of its namesake in ``settings``, or that there is none. An option of an earlier version is
    refused with the name of the one to use; see ``config.replaced``."""
    defaults = _defaults(settings) if settings is not None else {}

    class Group(TyperGroup):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            for command in self.commands.values():
                for parameter in command.params:
                    if parameter.param_type_name == "option":
                        _explain(parameter, defaults)

        def invoke(self, ctx: Any) -> Any:
            try:
                return super().invoke(ctx)
            except _UsageError as error:
                option = getattr(error, "option_name", "")
                if settings is not None and (why := _replaced(settings, option)):
                    error.message, error.possibilities = why, None  # type: ignore[attr-defined]
                raise

    return typer.Typer(
        name=name,
        cls=Group,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


def _replaced(settings: type[msgspec.Struct], option: str) -> str:
    """What to use for an ``option`` of an earlier version; empty where it never was one."""
    name = option.lstrip("-").replace("-", "_")
    for known in (name, name.removeprefix("no_")):
        if why := config.replaced(settings, known, option):
            return why
    return ""


def _defaults(settings: type[msgspec.Struct]) -> dict[str, Any]:
    """By name, the values of ``settings`` where nothing is said."""
    return {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(settings)
        if not field.required
    }


def _explain(option: Any, defaults: Mapping[str, Any]) -> None:
    """Add the default to the help of ``option``, unless typer or the help itself tells it."""
    told = option.help or ""
    shown = option.default not in (None, "") and not (option.is_flag and not option.secondary_opts)
    if option.required or shown or "default" in told.lower():
        return
    if option.default is None and option.name in defaults:
        default = _words(defaults[option.name])
    else:
        default = "off" if option.is_flag else "none"
    option.help = f"{told}  [default: {default}]"


def _words(value: Any) -> str:
    """A setting as a person would write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)

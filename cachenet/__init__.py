"""CacheNet: an inference cache for cameras.

Public names, described in docs/library.md:

    load, connect       open a bundle, or connect to a server
    Device, Answer      what both return, and what it answers
    Object              an object in the answer of a detector
    UserError           a bad argument
    __version__         version of the installed distribution

``import cachenet`` loads nothing; the first use of a name loads the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cachenet.edge_agent.library import Answer, Device, connect, load
    from cachenet.edge_agent.outputs.report import Object
    from cachenet.shared.command.errors import UserError
    from cachenet.shared.command.version import VERSION as __version__  # noqa: N811

__all__ = ["Answer", "Device", "Object", "UserError", "__version__", "connect", "load"]

#: Module and name of each public name.
_SOURCES = {
    "Answer": ("cachenet.edge_agent.library", "Answer"),
    "Device": ("cachenet.edge_agent.library", "Device"),
    "Object": ("cachenet.edge_agent.outputs.report", "Object"),
    "UserError": ("cachenet.shared.command.errors", "UserError"),
    "__version__": ("cachenet.shared.command.version", "VERSION"),
    "connect": ("cachenet.edge_agent.library", "connect"),
    "load": ("cachenet.edge_agent.library", "load"),
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

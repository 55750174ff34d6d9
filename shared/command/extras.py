"""Optional dependencies of the programs."""

from __future__ import annotations

from importlib.util import find_spec

from cachenet.shared.command.errors import UserError


def how_to_install(extras: str) -> str:
    """Advice for a missing package. ``extras``: names of extras in pyproject.toml, such as ``"sim,build"``."""
    return f"install it in a clone of CacheNet with: pip install -c constraints.txt '.[{extras}]'"


def require(extra: str, *packages: str) -> None:
    """Raise ``UserError`` if one of the ``packages``, which ``extra`` installs, is missing."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(f"this needs the package {missing[0]}; {how_to_install(extra)}")


def require_signing() -> None:
    """Raise ``UserError`` if the packages for signed bundles are missing."""
    require("signed", "tuf", "cryptography")

"""Optional dependencies of the programs."""

from __future__ import annotations


def how_to_install(extras: str) -> str:
    """Advice for a missing package. ``extras``: names of extras in pyproject.toml, such as ``"sim,build"``."""
    return f"install it in a clone of CacheNet with: pip install -c constraints.txt '.[{extras}]'"

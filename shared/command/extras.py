"""The optional dependencies of the programs, and how a user installs them."""

from __future__ import annotations


def how_to_install(extras: str) -> str:
    """What a message says where a package is missing. ``extras``: names of pyproject.toml, as in ``"sim,build"``."""
    return f"install it in a clone of CacheNet with: pip install -c constraints.txt '.[{extras}]'"

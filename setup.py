"""Refuses to build without the links in ``cachenet/``; all else is in pyproject.toml."""

from pathlib import Path

PACKAGES = ("edge_agent", "cloud_server", "models", "shared", "simulator")
if not all((Path("cachenet") / name).is_dir() for name in PACKAGES):
    raise SystemExit(
        "cachenet: the links in cachenet/ are no directories; this checkout has no symbolic links. "
        "Run: git config core.symlinks true && git checkout -- cachenet"
    )

from setuptools import setup  # noqa: E402

setup()

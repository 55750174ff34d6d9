"""The bundles that are installed with the programs."""

from __future__ import annotations

import os
from pathlib import Path

from cachenet.shared.bundle.manifest import MANIFEST, BundleError

#: Directory of the installed bundles, in a clone and in a wheel.
DIRECTORY = Path(__file__).resolve().parents[2] / "models" / "zoo"
#: Part of help texts: how to name a bundle.
HELP = "a directory, or the name of an installed bundle: campus, cifar10, imagenet-lite"


def installed() -> tuple[str, ...]:
    """Names of the installed bundles, sorted. Container images have none."""
    return tuple(sorted(manifest.parent.name for manifest in DIRECTORY.glob(f"*/{MANIFEST}")))


def find(bundle: str | Path) -> Path:
    """Directory of a bundle.

    Args:
        bundle: A directory, or the name of an installed bundle. A directory with a manifest has precedence.

    Raises:
        BundleError: There is neither.
    """
    directory = Path(bundle)
    if os.path.isfile(directory / MANIFEST):  # noqa: PTH113 - False, not an error, for an unreadable path
        return directory
    known = installed()
    if str(bundle) in known:
        return DIRECTORY / str(bundle)
    if not os.path.lexists(directory):
        named = f"installed bundles are {', '.join(known)}" if known else "no bundle is installed"
        raise BundleError(f"{bundle} is no bundle: there is no such directory, and {named}")
    return directory

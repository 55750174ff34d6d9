"""The bundles that are installed with the programs, and how a command line names one."""

from __future__ import annotations

import os
from pathlib import Path

from cachenet.shared.bundle.manifest import MANIFEST, BundleError

#: Beside this package, in a clone as in an installed wheel.
DIRECTORY = Path(__file__).resolve().parents[2] / "models" / "zoo"
#: What the help of an option says of a bundle.
HELP = "a directory, or the name of an installed bundle: cifar10, imagenet-lite"


def installed() -> tuple[str, ...]:
    """The names of the installed bundles, sorted. Container images have none."""
    return tuple(sorted(manifest.parent.name for manifest in DIRECTORY.glob(f"*/{MANIFEST}")))


def find(bundle: str | Path) -> Path:
    """The directory of ``bundle``, a directory or the name of an installed bundle. A directory with a manifest comes
    before an installed bundle of the same name. Raises ``BundleError`` where there is neither."""
    directory = Path(bundle)
    if os.path.isfile(directory / MANIFEST):  # noqa: PTH113 - false for a path that cannot be looked up, and no error
        return directory
    known = installed()
    if str(bundle) in known:
        return DIRECTORY / str(bundle)
    if not os.path.lexists(directory):
        named = f"installed bundles are {', '.join(known)}" if known else "no bundle is installed"
        raise BundleError(f"{bundle} is no bundle: there is no such directory, and {named}")
    return directory

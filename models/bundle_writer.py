"""Where a bundle goes: under its name it is whole, or it is not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from cachenet.models.certify.golden_frames import with_golden
from cachenet.shared.bundle.manifest import MANIFEST, SIGNATURE, Bundle, Manifest
from cachenet.shared.bundle.trust import Signer
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture


class PlaceError(UserError):
    """A bundle that cannot be written where it was asked for; the message says why."""


def check_place(out: Path) -> None:
    """Raise ``PlaceError`` if something is at ``out`` that is no bundle, and so is somebody's own."""
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise PlaceError(f"{out} is there and is no bundle; name a new directory")


def lay(bundle: Bundle, names: Iterable[str], directory: Path) -> None:
    """Put these models of ``bundle`` into ``directory``, and the full model's caches. Raises ``OSError``."""
    caches = [layer.file for layers in bundle.manifest.layers.values() for layer in layers.caches]
    lay_files(bundle, [*(bundle.manifest.models[name].file for name in names), *caches], directory)


def lay_files(bundle: Bundle, files_: Iterable[str], directory: Path) -> None:
    """Put these files of ``bundle`` into ``directory``, and its golden frames. Raises ``OSError``."""
    golden = bundle.manifest.golden
    for file in [*files_, *([golden.file] if golden is not None else [])]:
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(bundle.directory / file, path)
        except OSError:  # another disk
            shutil.copyfile(bundle.directory / file, path)


def put(
    building: Path, manifest: Manifest, out: Path, signer: Signer | None, pictures: Sequence[Picture] = ()
) -> Bundle:
    """Make a bundle of the models in ``building``, and move it to ``out``, in the place of any before. ``pictures``:
    its golden frames, see ``golden.with_golden``. Raises ``OSError``."""
    manifest = with_golden(building, manifest, pictures)
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    atomic_files.write(building / MANIFEST, data)
    if signer is not None:
        atomic_files.write(building / SIGNATURE, signer.sign(data))
    if out.exists():
        shutil.rmtree(out)
    building.rename(out)
    return Bundle(out)

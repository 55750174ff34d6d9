"""Writes bundles atomically: a directory with a bundle's name holds a complete bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cachenet.models.certify.golden_frames import add_golden_frames
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Manifest
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture


class TargetError(UserError):
    """A bundle cannot be written to the requested directory; the message has the reason."""


def check_target(out: Path) -> None:
    """Raise ``TargetError`` if ``out`` has content that is not a bundle, which must not be replaced."""
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise TargetError(f"{out} exists and is no bundle; name a new directory")


@contextmanager
def under_construction(out: Path) -> Iterator[Path]:
    """The directory in which the bundle for ``out`` is made, empty at first and removed at the end.

    Raises:
        PlaceError: Something other than a bundle is at ``out``.
    """
    check_target(out)
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


def link_models(bundle: Bundle, names: Iterable[str], directory: Path) -> None:
    """Link models of ``bundle`` into ``directory``, with all early exits and golden frames. Raises ``OSError``."""
    exits = [layer.file for layers in bundle.manifest.layers.values() for layer in layers.caches]
    link_files(bundle, [*(bundle.manifest.models[name].file for name in names), *exits], directory)


def link_files(bundle: Bundle, files: Iterable[str], directory: Path) -> None:
    """Link these files of ``bundle`` into ``directory``, with its golden frames. Raises ``OSError``."""
    golden = bundle.manifest.golden
    for file in [*files, *([golden.file] if golden is not None else [])]:
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(bundle.directory / file, path)
        except OSError:  # another file system
            shutil.copyfile(bundle.directory / file, path)


def publish(building: Path, manifest: Manifest, out: Path, pictures: Sequence[Picture] = ()) -> Bundle:
    """Complete the bundle in ``building`` and move it to ``out``, in place of any bundle there.

    Args:
        pictures: Its golden frames; see ``golden_frames.add_golden_frames``.

    Raises:
        OSError: The bundle cannot be written.
    """
    manifest = add_golden_frames(building, manifest, pictures)
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    atomic_files.write(building / MANIFEST, data)
    if out.exists():
        shutil.rmtree(out)
    building.rename(out)
    return Bundle(out)

"""The content-addressed store: what the device keeps of catalogues and models, across restarts and power cuts.

    <store>/catalogue/<bundle>.json      the manifest last seen
    <store>/catalogue/<version>.sig      its signature, if it had one
    <store>/blobs/<sha256>               a file, complete and checked
    <store>/blobs/<sha256>.part          a file on its way; its size is where the transfer goes on

A name without ``.part`` is only ever given to bytes that were checked and flushed to the disk.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared import files
from shared.bundle import BundleError, Manifest, digest, file_digest, parse
from shared.refusal import Refusal

#: What the system calls a disk on which nothing more can be kept.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class StoreError(Refusal):
    """The store cannot be used or a file in it is not what it should be; the message says what to do."""


class Store:
    def __init__(self, directory: Path) -> None:
        """Open ``directory``, creating it. Raises ``StoreError``."""
        self._catalogue, self._blobs = directory / "catalogue", directory / "blobs"
        try:
            for place in (self._catalogue, self._blobs):
                place.mkdir(parents=True, exist_ok=True)
            probe = directory / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StoreError(f"store {directory}: {error.strerror}; choose another with --store") from None

    def remember(self, data: bytes, manifest: Manifest, signature: bytes = b"") -> None:
        """Keep a manifest and its signature. Raises ``StoreError``."""
        with _trouble(self._catalogue):
            if signature:  # first, so that there is no moment in which the manifest is here without
                files.write(self._signature(data), signature)
            files.write(self._catalogue / f"{manifest.name}.json", data)
            known = {file_digest(path) for path in self._catalogue.glob("*.json")}
            for path in self._catalogue.glob("*.sig"):
                if path.stem not in known:
                    path.unlink()

    def recall(self, name: str = "") -> bytes | None:
        """The manifest of ``name``, or the one seen last; None if there is none that can be used."""
        pattern = f"{name}.json" if name else "*.json"
        for path in sorted(self._catalogue.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True):
            try:
                data = path.read_bytes()
                parse(data)
            except (OSError, BundleError):
                continue
            return data
        return None

    def signature(self, data: bytes) -> bytes:
        """What was remembered as the signature of a manifest; empty if nothing was."""
        with suppress(OSError):
            return self._signature(data).read_bytes()
        return b""

    def path(self, sha256: str) -> Path | None:
        """The complete file with that digest, or None. Its bytes are checked again, because disks rot: a damaged
        file is removed. Raises ``StoreError``."""
        path = self._blobs / sha256
        with _trouble(path):
            if not path.exists():
                return None
            if file_digest(path) != sha256:
                path.unlink(missing_ok=True)
                return None
        return path

    def holds(self, sha256: str) -> bool:
        """Whether a complete file of that digest seems to be here; its bytes are not looked at."""
        return (self._blobs / sha256).exists()

    def offset(self, sha256: str) -> int:
        """How many bytes of an unfinished file are here. Raises ``StoreError``."""
        part = self._part(sha256)
        with _trouble(part):
            return part.stat().st_size if part.exists() else 0

    def append(self, sha256: str, data: bytes) -> None:
        """Add the next bytes of an unfinished file. Raises ``StoreError``."""
        with _trouble(self._part(sha256)), self._part(sha256).open("ab") as part:
            part.write(data)

    def finish(self, sha256: str) -> Path:
        """Check and complete an unfinished file. Raises ``StoreError``, and starts afresh, if the digest differs."""
        part, path = self._part(sha256), self._blobs / sha256
        with _trouble(path):
            if file_digest(part) != sha256:
                part.unlink()
                raise StoreError(f"{sha256[:12]}: what arrived has another digest; fetching it again")
            files.flush(part)
            part.replace(path)
        return path

    def discard(self, sha256: str) -> None:
        """Remove an unfinished file. Raises ``StoreError``."""
        with _trouble(self._part(sha256)):
            self._part(sha256).unlink(missing_ok=True)

    def collect(self) -> int:
        """Remove what no manifest here names any more; the number of files. Raises ``StoreError``."""
        named = set()
        gone = 0
        with _trouble(self._blobs):
            for path in self._catalogue.glob("*.json"):
                with suppress(BundleError):  # damaged; whatever it named will be fetched again
                    named |= set(parse(path.read_bytes()).files().values())
            for path in self._blobs.iterdir():
                if path.name.removesuffix(".part") not in named:
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone

    def _signature(self, data: bytes) -> Path:
        return self._catalogue / f"{digest(data)}.sig"

    def _part(self, sha256: str) -> Path:
        return self._blobs / f"{sha256}.part"


@contextmanager
def _trouble(path: Path) -> Iterator[None]:
    """What goes wrong with ``path`` in the ``with`` block becomes a ``StoreError``."""
    try:
        yield
    except OSError as error:
        advice = "; make room there, or choose another with --store" if error.errno in _FULL else ""
        raise StoreError(f"{path}: {error.strerror}{advice}") from None

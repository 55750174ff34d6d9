"""The content-addressed store: what the device keeps of catalogues and models, across restarts and power cuts.

    <store>/catalogue/<bundle>.json      the current set: the manifest that the device answers with
    <store>/candidate/<bundle>.json      a newer one that is on its way or being tried
    <store>/previous/<bundle>.json       the set before, until the current one has proven itself
    <store>/updates/<bundle>.json        how far the update is, and which version has failed
    <store>/catalogue/<version>.sig      the signature of a manifest, if it had one
    <store>/blobs/<sha256>               a file, complete and checked
    <store>/blobs/<sha256>.part          a file on its way; its size is where the transfer goes on
    <store>/probed/<sha256>              with what that model file has passed the probe (``probe.fingerprint``)
    <store>/learned/camera-<name>.msgpack  what a camera's risk models have learned (``learner_file``)

A name without ``.part`` is only ever given to bytes that were checked and flushed to the disk. A candidate becomes
current by one rename, so there is a whole current set at every moment.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

from cachenet.edge_agent.updates.update_record import UpdateRecord
from cachenet.shared.bundle.manifest import BundleError, Manifest, digest, file_digest, parse
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError

#: What the system calls a disk on which nothing more can be kept.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
#: What the system says where a warm store can be read all the same.
_NOT_WRITABLE = {*_FULL, errno.EACCES, errno.EPERM}


class StoreError(UserError):
    """The store cannot be used or a file in it is not what it should be; the message says what to do."""


class MismatchError(StoreError):
    """What has arrived is not the file that the manifest names. Asking again may bring the same."""


class Store:
    """The directory of one device.

    Example:
        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> store.recall() is None, store.record("any").failed
        (True, '')
    """

    def __init__(self, directory: Path) -> None:
        """Open ``directory``, creating it. A store that holds a set already may be read-only or full. Raises
        ``StoreError``."""
        self.directory = directory
        self._catalogue, self._candidate = directory / "catalogue", directory / "candidate"
        self._previous, self._updates = directory / "previous", directory / "updates"
        self._blobs, self._probed = directory / "blobs", directory / "probed"
        #: Why nothing can be written here; empty where it can.
        self.read_only = ""
        self._lock: IO[str] | None = None
        try:
            for place in (self._catalogue, self._blobs, self._candidate, self._previous, self._updates, self._probed):
                place.mkdir(parents=True, exist_ok=True)
            probe = directory / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or self.current() is None:
                raise StoreError(f"store {directory}: {error.strerror}; choose another with --store") from None
            self.read_only = error.strerror or "not writable"

    def lock(self) -> None:
        """Keep other processes out until this one ends. Raises ``StoreError`` if one is in there."""
        if self.read_only:  # nothing is written, so any number may read
            return
        path = self.directory / ".lock"
        try:
            file = path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip()[:20]
                file.close()
                raise StoreError(
                    f"store {self.directory} is in use by process {holder or 'unknown'}; "
                    "stop that agent, or choose another store with --store"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None
        self._lock = file

    def current(self, name: str = "") -> bytes | None:
        """The current manifest of ``name``, or the one that became current last; None if none can be used."""
        pattern = f"{name}.json" if name else "*.json"
        with suppress(OSError):
            for path in sorted(self._catalogue.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True):
                if (data := _manifest(path)) is not None:
                    return data
        return None

    def candidate(self, name: str = "") -> bytes | None:
        """The manifest of ``name``, or of any bundle, that is to become current; None if there is none."""
        return next(filter(None, map(_manifest, sorted(self._candidate.glob(f"{name or '*'}.json")))), None)

    def previous(self, name: str = "") -> bytes | None:
        """The manifest of ``name``, or of any bundle, that was current before the one that is on trial; None without a
        trial."""
        return next(filter(None, map(_manifest, sorted(self._previous.glob(f"{name or '*'}.json")))), None)

    def stage(self, data: bytes, manifest: Manifest, signature: bytes = b"") -> None:
        """Keep a manifest as the candidate, in the place of any other. Raises ``StoreError``."""
        with _store_errors(self._candidate):
            if signature:  # first, so that there is no moment in which the manifest is here without
                atomic_files.write(self._signature(data), signature)
            atomic_files.write(self._candidate / f"{manifest.name}.json", data)
            self._drop_signatures()

    def unstage(self, name: str) -> None:
        """Forget the candidate. Raises ``StoreError``."""
        with _store_errors(self._candidate):
            (self._candidate / f"{name}.json").unlink(missing_ok=True)
            self._drop_signatures()

    def promote(self, name: str, version: str) -> bool:
        """Make the candidate, which is ``version``, the current set by one rename; whether there is a former set to go
        back to. The former set is kept as the previous one, but for a former set that has not proven itself either.
        Raises ``StoreError``."""
        current, previous = self._catalogue / f"{name}.json", self._previous / f"{name}.json"
        with _store_errors(current):
            former = _manifest(current)
            if former is not None and self.record(name).trial != digest(former):
                atomic_files.write(previous, former)
            there = previous.exists()
            self.keep(name, self.record(name).promoted(version, there))
            atomic_files.replace(self._candidate / f"{name}.json", current)
        return there

    def roll_back(self, name: str, reason: str, software: str) -> bool:
        """Make the previous set current again, and remember why, so that the other is not tried again; an empty
        ``reason`` lets it be tried. False if there is no previous set. Raises ``StoreError``."""
        current, previous = self._catalogue / f"{name}.json", self._previous / f"{name}.json"
        with _store_errors(current):
            if _manifest(previous) is None:
                return False
            record = UpdateRecord()
            if reason:
                record = record.failure(digest(current.read_bytes()), reason, software)
            # First, so that a roll-back that is interrupted here is finished at the next start.
            self.keep(name, record)
            atomic_files.replace(previous, current)
            os.utime(current)
        return True

    def commit(self, name: str) -> None:
        """The current set has proven itself: forget the previous one. Raises ``StoreError``."""
        with _store_errors(self._previous):
            (self._previous / f"{name}.json").unlink(missing_ok=True)
            self.keep(name, self.record(name).committed())
            self._drop_signatures()

    def record(self, name: str) -> UpdateRecord:
        """What was kept of the update of ``name``; an empty record where nothing was or it cannot be read."""
        with suppress(OSError, ValueError, msgspec.DecodeError, RecursionError):
            return msgspec.json.decode((self._updates / f"{name}.json").read_bytes(), type=UpdateRecord)
        return UpdateRecord()

    def keep(self, name: str, record: UpdateRecord) -> None:
        """Keep the record of the update of ``name``. Raises ``StoreError``."""
        with _store_errors(self._updates):
            if record != self.record(name):
                atomic_files.write(self._updates / f"{name}.json", msgspec.json.encode(record))

    def signature(self, data: bytes) -> bytes:
        """What was kept as the signature of a manifest; empty if nothing was."""
        with suppress(OSError):
            return self._signature(data).read_bytes()
        return b""

    def path(self, sha256: str) -> Path | None:
        """The complete file with that digest, or None. Its bytes are checked again, because disks rot: a damaged
        file is removed where that is possible. Raises ``StoreError``."""
        path = self._blobs / sha256
        with _store_errors(path):
            if not self._is_file(path):
                return None
            if file_digest(path) != sha256:
                if not self.read_only:
                    path.unlink(missing_ok=True)
                return None
        return path

    def holds(self, sha256: str) -> bool:
        """Whether a complete file of that digest seems to be here; its bytes are not looked at."""
        return (self._blobs / sha256).is_file()

    def offset(self, sha256: str) -> int:
        """How many bytes of an unfinished file are here. Raises ``StoreError``."""
        part = self._part(sha256)
        with _store_errors(part):
            return part.stat().st_size if self._is_file(part) else 0

    def room(self) -> int:
        """Bytes that can still be written here. Raises ``StoreError``."""
        with _store_errors(self._blobs):
            disk = os.statvfs(self._blobs)
            return disk.f_bavail * disk.f_frsize

    def append(self, sha256: str, data: bytes) -> None:
        """Add the next bytes of an unfinished file. Raises ``StoreError``."""
        with _store_errors(self._part(sha256)), self._part(sha256).open("ab") as part:
            part.write(data)

    def finish(self, sha256: str) -> Path:
        """Check and complete an unfinished file. Raises ``MismatchError``, and starts afresh, if the digest differs;
        ``StoreError``."""
        part, path = self._part(sha256), self._blobs / sha256
        with _store_errors(path):
            if file_digest(part) != sha256:
                part.unlink()
                raise MismatchError(f"{sha256[:12]}: what arrived has another digest; fetching it again")
            atomic_files.flush(part)
            atomic_files.replace(part, path)
        return path

    def discard(self, sha256: str) -> None:
        """Remove an unfinished file. Raises ``StoreError``."""
        with _store_errors(self._part(sha256)):
            self._part(sha256).unlink(missing_ok=True)

    def passed(self, sha256: str, fingerprint: str) -> bool:
        """Whether the model in this file has passed the probe as it is described now."""
        with suppress(OSError, UnicodeDecodeError):
            return (self._probed / sha256).read_text() == fingerprint
        return False

    def mark_probe_passed(self, sha256: str, fingerprint: str) -> None:
        """The model in this file has passed the probe. Raises ``StoreError``."""
        with _store_errors(self._probed):
            atomic_files.write(self._probed / sha256, fingerprint.encode())

    def collect(self) -> int:
        """Remove what no manifest here names any more, neither a current nor a previous nor a candidate; the number of
        files. Raises ``StoreError``."""
        named: set[str] = set()
        gone = 0
        with _store_errors(self._blobs):
            for path in self._manifests():
                with suppress(BundleError):  # damaged; whatever it named will be fetched again
                    named |= set(parse(path.read_bytes()).files().values())
            for path in (*self._blobs.iterdir(), *self._probed.iterdir()):
                if path.name.removesuffix(".part") not in named:
                    path.unlink(missing_ok=True)
                    gone += path.parent == self._blobs
        return gone

    def _is_file(self, path: Path) -> bool:
        """Whether there is a file at ``path``; what else is in its place is removed where that is possible."""
        if path.is_dir() and not self.read_only:
            shutil.rmtree(path)
        return path.is_file()

    def _manifests(self) -> Iterator[Path]:
        for place in (self._catalogue, self._candidate, self._previous):
            yield from place.glob("*.json")

    def _drop_signatures(self) -> None:
        known = {file_digest(path) for path in self._manifests()}
        for path in self._catalogue.glob("*.sig"):
            if path.stem not in known:
                path.unlink()

    def _signature(self, data: bytes) -> Path:
        return self._catalogue / f"{digest(data)}.sig"

    def _part(self, sha256: str) -> Path:
        return self._blobs / f"{sha256}.part"


def _manifest(path: Path) -> bytes | None:
    """The bytes of a manifest that can be used; None for any other file, or none."""
    try:
        data = path.read_bytes()
        parse(data)
    except (OSError, BundleError):
        return None
    return data


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """What goes wrong with ``path`` in the ``with`` block becomes a ``StoreError``."""
    try:
        yield
    except OSError as error:
        advice = "; make room there, or choose another with --store" if error.errno in _FULL else ""
        raise StoreError(f"{path}: {error.strerror}{advice}") from None

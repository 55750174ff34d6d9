"""The content-addressed store: manifests and models of a device, across restarts and power cuts.

    <store>/catalogue/<bundle>.json        the current set: the manifest that the device answers with
    <store>/candidate/<bundle>.json        a newer set that is being downloaded or is on trial
    <store>/previous/<bundle>.json         the former set, until the current one is committed
    <store>/updates/<bundle>.json          progress of the update, and the version that has failed
    <store>/catalogue/<version>.root       digest of the trusted root that vouches for a manifest, if one does
    <store>/signed/<bundle>                the last signed catalogue
    <store>/blobs/<sha256>                 a complete, verified file
    <store>/blobs/<sha256>.part            a partial file; its size is the offset at which the transfer resumes
    <store>/probed/<sha256>                the conditions under which the model file passed (``probe.fingerprint``)
    <store>/learned/camera-<name>.msgpack  learned state of the risk models of a camera or zone (``learner_file``)
    <store>/outbox.sqlite                  frames to be sent to a server (``outbox.database``)

A name without ``.part`` is only given to bytes that are verified and flushed to the disk. A candidate becomes current
by one rename, so there is a complete current set at every moment.
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

#: Error numbers of a disk that has no space, no quota or no write access.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
#: Error numbers with which a store that holds a set can still be read.
_NOT_WRITABLE = {*_FULL, errno.EACCES, errno.EPERM}


class StoreError(UserError):
    """The store cannot be used, or a file in it is invalid; the message says what to do."""


class MismatchError(StoreError):
    """A received file is not the one that the manifest names. Another request may bring the same file."""


class Store:
    """The store directory of one device.

    All methods that write raise ``StoreError`` if the disk refuses.

    Example:
        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> store.current() is None, store.record("any").failed
        (True, '')
    """

    def __init__(self, directory: Path) -> None:
        """Open or create ``directory``. A store that holds a set may be read-only or full. Raises ``StoreError``."""
        self.directory = directory
        self._catalogue, self._candidate = directory / "catalogue", directory / "candidate"
        self._previous, self._updates = directory / "previous", directory / "updates"
        self._blobs, self._probed = directory / "blobs", directory / "probed"
        self._signed = directory / "signed"
        #: Why the store is not writable; empty if it is.
        self.read_only = ""
        self._lock: IO[str] | None = None
        try:
            for part in (self._catalogue, self._blobs, self._candidate, self._previous, self._updates, self._probed):
                part.mkdir(parents=True, exist_ok=True)
            test = directory / ".probe"
            test.write_bytes(b"")
            test.unlink()
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or self.current() is None:
                raise StoreError(f"store {directory}: {error.strerror}; choose another with --store") from None
            self.read_only = error.strerror or "not writable"

    def lock(self) -> None:
        """Lock the store until this process ends. Raises ``StoreError`` if another process holds the lock."""
        if self.read_only:  # several processes may read
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

    def unlock(self) -> None:
        """Let other processes use the store."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def current(self, name: str = "") -> bytes | None:
        """The current manifest of ``name`` (default: of the bundle used last); None without one."""
        pattern = f"{name}.json" if name else "*.json"
        with suppress(OSError):
            for path in sorted(self._catalogue.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True):
                if (data := _manifest(path)) is not None:
                    return data
        return None

    def mark_used(self, name: str) -> None:
        """Note that the bundle ``name`` is the one used last. A set that becomes current is noted by itself."""
        path = self._catalogue / f"{name}.json"
        with _store_errors(path):
            os.utime(path)

    def candidate(self, name: str = "") -> bytes | None:
        """The candidate manifest of ``name`` (default: of any bundle); None without one."""
        return next(filter(None, map(_manifest, sorted(self._candidate.glob(f"{name or '*'}.json")))), None)

    def previous(self, name: str = "") -> bytes | None:
        """The manifest before the one on trial, of ``name`` (default: of any bundle); None without a trial."""
        return next(filter(None, map(_manifest, sorted(self._previous.glob(f"{name or '*'}.json")))), None)

    def stage(self, data: bytes, manifest: Manifest, root: str = "") -> None:
        """Write a manifest as the candidate; replaces another candidate.

        Args:
            root: Digest of the trusted root that vouches for it; empty for none.
        """
        with _store_errors(self._candidate):
            if root:  # before the manifest, so that the manifest is never without it
                atomic_files.write(self._voucher(data), root.encode())
            atomic_files.write(self._candidate / f"{manifest.name}.json", data)
            self._drop_vouchers()

    def unstage(self, name: str) -> None:
        """Delete the candidate."""
        with _store_errors(self._candidate):
            (self._candidate / f"{name}.json").unlink(missing_ok=True)
            self._drop_vouchers()

    def promote(self, name: str, version: str) -> bool:
        """Make the candidate, which is ``version``, the current set by one rename.

        The former set is kept as the previous one, unless it was on trial itself.

        Returns:
            Whether there is a previous set to roll back to.
        """
        current, previous = self._catalogue / f"{name}.json", self._previous / f"{name}.json"
        with _store_errors(current):
            former = _manifest(current)
            if former is not None and self.record(name).trial != digest(former):
                atomic_files.write(previous, former)
            has_previous = previous.exists()
            self.save_record(name, self.record(name).promoted(version, has_previous))
            atomic_files.replace(self._candidate / f"{name}.json", current)
        return has_previous

    def roll_back(self, name: str, reason: str, software: str) -> bool:
        """Make the previous set current again, and record the failure of the current one.

        Args:
            reason: Why the current set has failed; empty: it may be tried again.
            software: Versions of the programs; others may try the failed set again.

        Returns:
            False if there is no previous set.
        """
        current, previous = self._catalogue / f"{name}.json", self._previous / f"{name}.json"
        with _store_errors(current):
            if _manifest(previous) is None:
                return False
            record = UpdateRecord()
            if reason:
                record = record.failure(digest(current.read_bytes()), reason, software)
            # Before the rename, so that the next start completes an interrupted rollback.
            self.save_record(name, record)
            atomic_files.replace(previous, current)
            os.utime(current)
        return True

    def commit(self, name: str) -> None:
        """End the trial of the current set: delete the previous one."""
        with _store_errors(self._previous):
            (self._previous / f"{name}.json").unlink(missing_ok=True)
            self.save_record(name, self.record(name).committed())
            self._drop_vouchers()

    def record(self, name: str) -> UpdateRecord:
        """The update record of ``name``; an empty one if it is missing or unreadable."""
        with suppress(OSError, ValueError, msgspec.DecodeError, RecursionError):
            return msgspec.json.decode((self._updates / f"{name}.json").read_bytes(), type=UpdateRecord)
        return UpdateRecord()

    def save_record(self, name: str, record: UpdateRecord) -> None:
        """Write the update record of ``name``."""
        with _store_errors(self._updates):
            if record != self.record(name):
                atomic_files.write(self._updates / f"{name}.json", msgspec.json.encode(record))

    def root_of(self, data: bytes) -> str:
        """Digest of the trusted root that vouches for a stored manifest; empty for none."""
        with suppress(OSError, UnicodeDecodeError):
            return self._voucher(data).read_text("ascii")
        return ""

    def signed(self, name: str) -> bytes | None:
        """The last signed catalogue of ``name``; None without one."""
        with suppress(OSError):
            return (self._signed / name).read_bytes()
        return None

    def save_signed(self, name: str, data: bytes) -> None:
        """Write the last signed catalogue of ``name``."""
        with _store_errors(self._signed):
            if self.signed(name) != data:
                atomic_files.write(self._signed / name, data)

    def path(self, sha256: str) -> Path | None:
        """Path of the complete file with this digest; None without one.

        The bytes are verified again, because disks fail. A damaged file is deleted if possible.
        """
        path = self._blobs / sha256
        with _store_errors(path):
            if not self._is_file(path):
                return None
            if file_digest(path) != sha256:
                if not self.read_only:
                    path.unlink(missing_ok=True)
                return None
        return path

    def has_file(self, sha256: str) -> bool:
        """Whether there is a complete file with this digest; its bytes are not verified."""
        return (self._blobs / sha256).is_file()

    def offset(self, sha256: str) -> int:
        """Size of a partial file, bytes."""
        part = self._part(sha256)
        with _store_errors(part):
            return part.stat().st_size if self._is_file(part) else 0

    def free_bytes(self) -> int:
        """Free space on the disk, bytes."""
        with _store_errors(self._blobs):
            disk = os.statvfs(self._blobs)
            return disk.f_bavail * disk.f_frsize

    def append(self, sha256: str, data: bytes) -> None:
        """Append bytes to a partial file."""
        with _store_errors(self._part(sha256)), self._part(sha256).open("ab") as part:
            part.write(data)

    def finish(self, sha256: str) -> Path:
        """Verify and complete a partial file.

        Raises:
            MismatchError: The digest differs; the partial file is deleted.
        """
        part, path = self._part(sha256), self._blobs / sha256
        with _store_errors(path):
            if file_digest(part) != sha256:
                part.unlink()
                raise MismatchError(f"{sha256[:12]}: what arrived has another digest; fetching it again")
            atomic_files.flush(part)
            atomic_files.replace(part, path)
        return path

    def discard(self, sha256: str) -> None:
        """Delete a partial file."""
        with _store_errors(self._part(sha256)):
            self._part(sha256).unlink(missing_ok=True)

    def is_probed(self, sha256: str, fingerprint: str) -> bool:
        """Whether this model file has passed a probe with this fingerprint."""
        with suppress(OSError, UnicodeDecodeError):
            return (self._probed / sha256).read_text() == fingerprint
        return False

    def mark_probed(self, sha256: str, fingerprint: str) -> None:
        """Record that this model file has passed a probe."""
        with _store_errors(self._probed):
            atomic_files.write(self._probed / sha256, fingerprint.encode())

    def collect_garbage(self) -> int:
        """Delete files that no current, previous or candidate manifest names; returns their number."""
        named: set[str] = set()
        deleted = 0
        with _store_errors(self._blobs):
            for path in self._manifests():
                with suppress(BundleError):  # a damaged manifest; its files are downloaded again
                    named |= set(parse(path.read_bytes()).files().values())
            for path in (*self._blobs.iterdir(), *self._probed.iterdir()):
                if path.name.removesuffix(".part") not in named:
                    path.unlink(missing_ok=True)
                    deleted += path.parent == self._blobs
        return deleted

    def _is_file(self, path: Path) -> bool:
        """Whether ``path`` is a file; a directory in its place is deleted if possible."""
        if path.is_dir() and not self.read_only:
            shutil.rmtree(path)
        return path.is_file()

    def _manifests(self) -> Iterator[Path]:
        for directory in (self._catalogue, self._candidate, self._previous):
            yield from directory.glob("*.json")

    def _drop_vouchers(self) -> None:
        known = {file_digest(path) for path in self._manifests()}
        for path in self._catalogue.glob("*.root"):
            if path.stem not in known:
                path.unlink()

    def _voucher(self, data: bytes) -> Path:
        return self._catalogue / f"{digest(data)}.root"

    def _part(self, sha256: str) -> Path:
        return self._blobs / f"{sha256}.part"


def _manifest(path: Path) -> bytes | None:
    """The bytes of a valid manifest; None for any other file, or none."""
    try:
        data = path.read_bytes()
        parse(data)
    except (OSError, BundleError):
        return None
    return data


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the ``with`` block into a ``StoreError`` about ``path``."""
    try:
        yield
    except OSError as error:
        advice = "; make room there, or choose another with --store" if error.errno in _FULL else ""
        raise StoreError(f"{path}: {error.strerror}{advice}") from None

"""Verification of signed bundles: the client of The Update Framework (TUF).

A device trusts one root. What a server publishes is a set of files: metadata, the manifest, and perhaps an extension.
The library's client checks them as the specification says: signatures, versions that never fall, expiry, and that all
files belong together.

This import takes 0.3 s; modules import ``trust`` only where a root is trusted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from cachenet.shared.bundle.extension import merge, parse_extension
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, BundleError, digest, parse
from cachenet.shared.bundle.signing import (
    ROOT,
    SERVER,
    SNAPSHOT,
    SUBMODELS,
    TARGETS,
    TIMESTAMP,
    Files,
    SigningError,
    check_targets,
    extension_target,
    newest_root,
    read_metadata,
    root_file,
    root_version,
    signed_at,
    utc,
)

#: Files of metadata that the client stores, beside those of the root.
_STORED = tuple(f"{role}.json" for role in (TIMESTAMP, SNAPSHOT, TARGETS, SUBMODELS, SERVER))
#: Largest sizes of metadata, bytes. Those of a bundle with few submodels are under 3 kB.
_CONFIG = UpdaterConfig(
    max_delegations=4,
    root_max_length=64 << 10,
    timestamp_max_length=16 << 10,
    snapshot_max_length=64 << 10,
    targets_max_length=256 << 10,
)
#: Base of the client's addresses.
_BASE = "catalogue/"
#: What an error of the client means, in the order of the checks. Texts are fixed, so that a log of each is short.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (
        ExpiredMetadataError,
        "its metadata has expired; has the server stopped signing, or is the clock here wrong?",
    ),
    (BadVersionNumberError, "its metadata is older than what this device has, or of different versions"),
    (LengthOrHashMismatchError, "its files do not belong together"),
    (UnsignedMetadataError, "the keys of --trusted-root have not signed it"),
    (DownloadHTTPError, "a file of its metadata is missing"),
    (DownloadError, "a file of its metadata is too large"),
)


class UntrustedError(BundleError):
    """Something that the trusted root does not vouch for. The message has the reason."""


@dataclass(frozen=True)
class Verified:
    """What a signed catalogue vouches for.

    Attributes:
        manifest: The manifest, merged with the extension.
        files: The metadata that was verified, for ``Known``. A message may have other files beside it.
        signed_at: Time of the timestamp, seconds since the epoch.
        age: Least age of the timestamp by all signed times that the device knows, seconds.
        expires: End of its validity, seconds since the epoch.
        remark: Why an extension is left out; empty without a reason.
    """

    manifest: bytes
    files: Files
    signed_at: float
    age: float
    expires: float
    remark: str = ""


@dataclass(frozen=True)
class Known:
    """The last signed catalogue that a device has taken.

    Attributes:
        files: Its verified metadata.
        age: Age of its timestamp as far as this process knows, seconds; so a device without a clock has a time.
    """

    files: Files
    age: float = 0.0


class TrustedRoot:
    """The root that a device trusts.

    Example:
        root = TrustedRoot(Path("keys/root.json"))
        root.verify_bundle(Bundle(Path("build/mine")))
    """

    def __init__(self, file: Path) -> None:
        """Read a root, whose own keys must have signed it. Raises ``SigningError``."""
        try:
            self._data = file.read_bytes()
            metadata = Metadata[Root].from_bytes(self._data)
            metadata.signed.verify_delegate(ROOT, metadata.signed_bytes, metadata.signatures)
        except OSError as error:
            raise SigningError(f"{file}: {error.strerror}") from None
        except (RepositoryError, ValueError, AttributeError):
            raise SigningError(f"{file} is no root of trust; 'model-builder keys' makes one, root.json") from None
        self._version = metadata.signed.version
        #: SHA-256 of the file.
        self.digest = digest(self._data)

    def verify_bundle(self, bundle: Bundle) -> None:
        """Check that a bundle's manifest is signed. Neither its age nor its expiry is checked: there is no newer one.

        Raises:
            UntrustedError: It is not signed, or by other keys.
        """
        try:
            files = read_metadata(bundle.directory)
            check_targets(newest_root(self._data, files), files, bundle.data)
        except (RepositoryError, ValueError) as error:
            reason = _reason(error) if bundle.signed else "it is not signed, and --trusted-root is set"
            raise UntrustedError(f"{bundle.directory} is not taken: {reason}") from None

    def verify(self, name: str, files: Files, clock: float, known: Known | None = None) -> Verified:
        """Check the signed catalogue of the bundle ``name``.

        Args:
            files: Its files.
            clock: Time of this device's clock, seconds since the epoch. The time that counts is the later of the clock
                and the newest signed time that this device knows.
            known: The last one that this device has taken; None for none.

        Raises:
            UntrustedError: The catalogue is not to be taken.
        """
        try:
            return self._verify(name, files, clock, known)
        except BundleError as error:
            raise UntrustedError(f"{name} is not taken: {error}") from None
        except (RepositoryError, DownloadError, ValueError) as error:
            raise UntrustedError(f"{name} is not taken: {_reason(error)}") from None

    def validity(self, files: Files) -> tuple[float, float]:
        """Time of signing and end of a catalogue that was taken before, seconds since the epoch.

        Raises:
            UntrustedError: Its roots or its timestamp are damaged, or of another trusted root.
        """
        try:
            if files[root_file(self._version)] != self._data:
                raise RepositoryError("another root")
            metadata = Metadata[Timestamp].from_bytes(files[f"{TIMESTAMP}.json"])
            newest = newest_root(self._data, files)
            newest.verify_delegate(TIMESTAMP, metadata.signed_bytes, metadata.signatures)
        except (RepositoryError, KeyError, ValueError):
            raise UntrustedError("the catalogue is damaged, or of another root") from None
        return signed_at(metadata.signed), metadata.signed.expires.timestamp()

    def _verify(self, name: str, files: Files, clock: float, known: Known | None) -> Verified:
        if known is not None and known.files.get(root_file(self._version)) != self._data:
            known = None  # of another trusted root
        root = newest_root(self._data, files if known is None else {**files, **known.files})
        signed_time = signed_at(root) if known is None else self._signed_time(root, known)
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            if known is not None:
                _write_cache(Path(directory), known.files)
            client = Updater(directory, _BASE, fetcher=_Fetcher(files), config=_CONFIG, bootstrap=self._data)
            # The library has no argument for the time; tests of a device without a clock fail if this has no effect.
            client._trusted_set.reference_time = utc(max(clock, signed_time))
            client.refresh()
            timestamp = client._trusted_set.timestamp
            manifest = _target(client, files, MANIFEST)
            if manifest is None:
                raise BundleError(f"its metadata names no {MANIFEST}")
            if parse(manifest).name != name:
                raise BundleError(f"it is the bundle {parse(manifest).name}")
            remark = ""
            try:
                extension = _target(client, files, extension_target(name))
                merged = manifest if extension is None else merge(manifest, parse_extension(extension))
            except BundleError as error:
                merged, remark = manifest, str(error)
            except ExpiredMetadataError as error:
                merged, remark = manifest, _reason(error) if extension_target(name) in files else ""
            taken = _read_cache(Path(directory))
        at = signed_at(timestamp)
        return Verified(merged, taken, at, max(0.0, signed_time - at), timestamp.expires.timestamp(), remark)

    def _signed_time(self, root: Root, known: Known) -> float:
        """The newest signed time that a device knows, seconds since the epoch.

        Times that the former key of a server has signed do not count: its thief could sign a time in the future.
        """
        before = newest_root(self._data, known.files)
        if set(root.roles[TIMESTAMP].keyids) != set(before.roles[TIMESTAMP].keyids):
            return signed_at(root)
        return max(signed_at(root), self.validity(known.files)[0] + known.age)


class _Fetcher(FetcherInterface):
    """Gives the library's client the files of one message. The client bounds their sizes."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._files.get(url.removeprefix(_BASE))
        if data is None:
            raise DownloadHTTPError("no such file", 404)
        return iter((data,))


def _target(client: Updater, files: Files, name: str) -> bytes | None:
    """A signed target; None if none is signed. Raises ``RepositoryError``, ``DownloadError``."""
    info = client.get_targetinfo(name)
    if info is None:
        return None
    if name not in files:
        raise DownloadHTTPError("no such file", 404)
    info.verify_length_and_hashes(files[name])
    return files[name]


def _write_cache(directory: Path, files: Files) -> None:
    """Write files where the library's client stores what it has taken."""
    (directory / "root_history").mkdir()
    for name, data in files.items():
        if root_version(name):
            (directory / "root_history" / name).write_bytes(data)
        elif name in _STORED:
            (directory / name).write_bytes(data)


def _read_cache(directory: Path) -> Files:
    """The files that the library's client has stored."""
    paths = [*(directory / "root_history").iterdir(), *(directory / name for name in _STORED)]
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def _reason(error: Exception) -> str:
    return next((text for kind, text in _REASONS if isinstance(error, kind)), "its metadata is invalid")

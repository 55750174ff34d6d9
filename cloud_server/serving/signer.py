"""The server's signatures: what it publishes of a signed bundle, and submodels that it has trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError
from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from cachenet.shared.bundle.extension import difference
from cachenet.shared.bundle.manifest import MANIFEST, METADATA, Bundle
from cachenet.shared.bundle.signing import (
    BUILDER_FILES,
    DAY,
    SERVER,
    SNAPSHOT,
    SUBMODELS,
    TIMESTAMP,
    Files,
    SigningError,
    check_targets,
    expiry_warning,
    extension_target,
    newest_root,
    read_key,
    read_metadata,
    root_file,
    signed,
    utc,
    version_of,
)

#: Time between two timestamps, seconds. A device notices withheld updates a day after the last one.
RENEW_S = 3600.0


class CatalogueSigner:
    """Makes the signed catalogue of a bundle that the builder has signed.

    Example:
        signer = CatalogueSigner(bundle, Path("server.key"))
        files = signer.sign(bundle)
    """

    def __init__(self, bundle: Bundle, key: Path, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            bundle: Bundle of the settings.
            key: File of the server's key.
            clock: Seconds since the epoch.

        Raises:
            SigningError: The key cannot be used, or the bundle is not signed.
        """
        #: The bundle that the builder has signed.
        self.bundle = bundle
        self._clock = clock
        self._key_file, self._key = key, read_key(key)
        self._files = read_metadata(bundle.directory)
        self._root = self._check(self._files)
        self._at, self._version = 0.0, 0
        #: Why metadata that the builder has renewed is not used; empty without a reason.
        self.error = ""

    def sign(self, served: Bundle) -> Files:
        """The files of the signed catalogue; ``served``: the bundle, or an update of it."""
        self._at = self._clock()
        self._version = version = max(self._version + 1, int(self._at))
        now, name = utc(self._at), self.bundle.manifest.name
        files = {**self._files, MANIFEST: self.bundle.data}
        server = Targets(version=version, expires=now + DAY)
        if served.version != self.bundle.version:
            target = extension_target(name)
            extension = difference(self.bundle.version, self.bundle.manifest, served.manifest)
            files[target] = msgspec.json.encode(extension)
            server.targets[target] = TargetFile.from_data(target, files[target], ["sha256"])
        versions = {file: MetaFile(version_of(files[file])) for file in BUILDER_FILES}
        versions[f"{SERVER}.json"] = MetaFile(version)
        snapshot = Snapshot(version=version, expires=now + DAY, meta=versions)
        timestamp = Timestamp(version=version, expires=now + DAY, snapshot_meta=MetaFile(version))
        files[f"{SERVER}.json"] = signed(server, now, self._key)
        files[f"{SNAPSHOT}.json"] = signed(snapshot, now, self._key)
        files[f"{TIMESTAMP}.json"] = signed(timestamp, now, self._key)
        return files

    def expiry_warning(self) -> str:
        """Which metadata of the builder expires soon, and what renews it; empty for none."""
        return expiry_warning(self.bundle.directory, self._root, self._files, utc(self._clock()))

    def due(self) -> bool:
        """Whether it is time for another timestamp, or the builder has renewed the metadata."""
        before, self.error = self._files, ""
        try:
            if (files := read_metadata(self.bundle.directory)) != before:
                self._root, self._files = self._check(files), files
        except SigningError as error:
            self.error = str(error)
        return self._files is not before or self._clock() - self._at >= RENEW_S

    def _check(self, files: Files) -> Root:
        """Check metadata of the bundle; returns its newest root. Raises ``SigningError``."""
        directory = self.bundle.directory
        if not files:
            raise SigningError(f"{directory} is not signed; sign it with: model-builder sign {directory}")
        try:
            root = newest_root(files[root_file(1)], files)
            check_targets(root, files, self.bundle.data)
            version_of(files[f"{SUBMODELS}.json"])
        except KeyError as error:
            raise SigningError(f"{directory / METADATA} has no {error.args[0]}; copy all of it") from None
        except LengthOrHashMismatchError:
            raise SigningError(f"{directory} was changed after it was signed; sign it, and start again") from None
        except (RepositoryError, ValueError) as error:
            raise SigningError(f"{directory / METADATA}: {error}") from None
        if self._key.public_key.keyid not in root.roles[TIMESTAMP].keyids:
            raise SigningError(f"{self._key_file} is not the server's key of {root_file(root.version)}")
        return root

"""Keys and signed metadata of The Update Framework (TUF), as builder and server write them.

Roles, and who signs them:

    root        root.key      the keys of all roles
    targets     targets.key   the manifest
    submodels   targets.key   the server's permission to sign submodels, for a week
    server      server.key    submodels that the server has trained
    snapshot    server.key    versions of targets, submodels and server
    timestamp   server.key    version of the snapshot, and the time

A version is the time of signing in seconds, except of the root, whose versions count from 1. So any number of servers
can sign without a common counter.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from cachenet.shared.bundle.manifest import MANIFEST, METADATA
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError

#: Names of the roles.
ROOT, TARGETS, SUBMODELS, SERVER = "root", "targets", "submodels", "server"
SNAPSHOT, TIMESTAMP = "snapshot", "timestamp"
#: Files of the metadata that the builder writes, beside those of the root.
BUILDER_FILES = (f"{TARGETS}.json", f"{SUBMODELS}.json")
#: Paths of the targets that the server may sign.
SUBMODEL_PATHS = "submodels/*"
#: Field of the metadata with the time of signing, seconds since the epoch. TUF permits further fields.
SIGNED_AT = "cachenet-signed-at"
#: End of the times that count, seconds since the epoch: the year 6325. Python's calendar ends in the year 9999.
_LATEST = 1 << 37
#: Validity of root and targets.
YEAR = timedelta(days=365)
#: Time before the end of that validity from which servers warn.
WARNING = timedelta(days=60)
#: Validity of the server's permission. A stolen key of a server can sign submodels that long after the last renewal.
PERMISSION = timedelta(days=7)
#: Validity of what the server signs. Devices notice withheld updates after this time.
DAY = timedelta(days=1)

_ROOT_FILE = re.compile(r"([1-9][0-9]{0,3})\.root\.json")

#: Content of files by name.
Files = dict[str, bytes]
T = TypeVar("T", Root, Targets, Snapshot, Timestamp)


class SigningError(UserError, ValueError):
    """A key or signed metadata that cannot be used. The message says what to do."""


def extension_target(bundle: str) -> str:
    """Name of the target that extends ``bundle``."""
    return f"submodels/{bundle}.json"


def root_file(version: int) -> str:
    """File name of a version of the root."""
    return f"{version}.root.json"


def root_version(file: str) -> int:
    """Version of the root in a file of this name; 0 for another file."""
    found = _ROOT_FILE.fullmatch(file)
    return int(found[1]) if found else 0


def new_key(file: Path) -> CryptoSigner:
    """Make an Ed25519 key, a PEM file that only its owner can read. Raises ``OSError``, also if the file exists."""
    key = CryptoSigner.generate_ed25519()
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(key.private_bytes)
    atomic_files.flush(file)
    return key


def read_key(file: Path) -> CryptoSigner:
    """Read a private key. Raises ``SigningError``."""
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise SigningError(f"key {file}: {error.strerror}") from None
    except TypeError:
        raise SigningError(f"{file} is locked with a passphrase; use a key without") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError(f"{file} is no Ed25519 private key; 'model-builder keys' makes some")
    return CryptoSigner(key)


def signed(part: T, now: datetime, *keys: CryptoSigner) -> bytes:
    """A file of metadata with the time of signing, signed by ``keys``."""
    part.unrecognized_fields[SIGNED_AT] = int(now.timestamp())
    metadata = Metadata(part)
    for key in keys:
        metadata.sign(key, append=True)
    return metadata.to_bytes(JSONSerializer())


def signed_at(part: Signed) -> float:
    """Time of signing, seconds since the epoch; 0 if the metadata states none that counts."""
    seconds = part.unrecognized_fields.get(SIGNED_AT)
    return float(seconds) if type(seconds) is int and 0 <= seconds < _LATEST else 0.0


def version_of(data: bytes) -> int:
    """Version of targets that are not verified. Raises ``RepositoryError``."""
    return _load(data, Targets).signed.version


def utc(seconds: float) -> datetime:
    """This time, as TUF takes it."""
    return datetime.fromtimestamp(seconds, timezone.utc)


def newest_root(trusted: bytes, files: Files) -> Root:
    """The newest root in ``files`` that continues ``trusted``: each version is signed by the keys of the one before.

    Raises:
        RepositoryError: A root is invalid, or is not signed as it should be.
    """
    root = _load(trusted, Root).signed
    while (data := files.get(root_file(root.version + 1))) is not None:
        newer = _load(data, Root)
        for signer in (root, newer.signed):
            signer.verify_delegate(ROOT, newer.signed_bytes, newer.signatures)
        if newer.signed.version != root.version + 1:
            raise RepositoryError(f"{root_file(root.version + 1)} is version {newer.signed.version}")
        root = newer.signed
    return root


def read_metadata(bundle: Path) -> Files:
    """The metadata of a bundle by file name; empty if it is not signed. Raises ``SigningError``."""
    directory, files = bundle / METADATA, {}
    try:
        for path in sorted(directory.iterdir()) if directory.exists() else ():
            if path.name in BUILDER_FILES or root_version(path.name):
                files[path.name] = path.read_bytes()
    except OSError as error:
        raise SigningError(f"{error.filename}: {error.strerror}") from None
    return files


def check_targets(root: Root, files: Files, manifest: bytes) -> None:
    """Check that ``root`` has signed the targets, and that they name ``manifest``. Raises ``RepositoryError``."""
    data = files.get(f"{TARGETS}.json")
    if data is None:
        raise RepositoryError("it is not signed")
    metadata = _load(data, Targets)
    root.verify_delegate(TARGETS, metadata.signed_bytes, metadata.signatures)
    target = metadata.signed.targets.get(MANIFEST)
    if target is None:
        raise RepositoryError(f"its metadata names no {MANIFEST}")
    target.verify_length_and_hashes(manifest)


def expiry_warning(bundle: Path, root: Root, files: Files, now: datetime) -> str:
    """Which metadata of a bundle, verified before, expires within ``WARNING``, and what renews it; empty for none."""
    ends = {ROOT: root.expires, TARGETS: _load(files[f"{TARGETS}.json"], Targets).signed.expires}
    due = [name for name, end in ends.items() if end - now < WARNING]
    if not due:
        return ""
    first = min(ends[name] for name in due)
    verb = "expires on" if first > now else "has expired on"
    renew = f"model-builder sign {bundle}"
    if ROOT in due:
        renew = f"model-builder rotate root, then {renew}"
    subject = f"the signed {' and '.join(due)} of {bundle} {verb} {first:%Y-%m-%d}"
    return f"{subject}, after which devices take no updates; renew with: {renew}"


def _load(data: bytes, kind: type[T]) -> Metadata[T]:
    """Metadata of this kind, not verified. Raises ``RepositoryError``."""
    metadata = Metadata[T].from_bytes(data)
    if not isinstance(metadata.signed, kind):
        raise RepositoryError(f"{metadata.signed.type} in the place of {kind.type}")
    return metadata

"""The builder's keys, and what they sign: roots, the targets of bundles, and the server's permission.

The directory of keys has ``root.key``, ``targets.key`` and ``server.key``, all versions of the root, and ``root.json``,
a copy of the newest one for devices. ``last-version`` has the last version that was signed.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Delegations, Key, Root, TargetFile, Targets

from cachenet.shared.bundle.manifest import MANIFEST, METADATA, Bundle
from cachenet.shared.bundle.signing import (
    PERMISSION,
    ROOT,
    SERVER,
    SNAPSHOT,
    SUBMODEL_PATHS,
    SUBMODELS,
    TARGETS,
    TIMESTAMP,
    YEAR,
    Files,
    SigningError,
    new_key,
    newest_root,
    read_key,
    root_file,
    root_version,
    signed,
)
from cachenet.shared.command import atomic_files
from cachenet.shared.transport.protocol import MAX_FILES

#: Most versions of the root: a signed catalogue has all of them, and seven other files. TUF's client follows 256.
MAX_ROOTS = MAX_FILES - 7
#: A key that can be replaced, by the name of its file.
KeyName = Literal["root", "targets", "server"]
#: Roles of the root's metadata that each key signs.
_ROLES: dict[KeyName, tuple[str, ...]] = {"root": (ROOT,), "targets": (TARGETS,), "server": (SNAPSHOT, TIMESTAMP)}
#: File of the newest root, for devices, and of the last version that was signed.
ROOT_FILE, _LAST_VERSION = "root.json", "last-version"
#: File of a new key until the root that names it is written.
_PARTIAL = "{}.key.part"


class KeyDirectory:
    """The builder's directory of keys.

    Example:
        keys = KeyDirectory.create(Path("keys"), now)
        keys.sign(Bundle(Path("build/mine")), now)
    """

    def __init__(self, directory: Path) -> None:
        """Open a directory that ``create`` has made. Raises ``SigningError``."""
        self.directory = directory
        try:
            self._roots: Files = {
                path.name: path.read_bytes() for path in directory.iterdir() if root_version(path.name)
            }
        except OSError as error:
            raise SigningError(f"{directory}: {error.strerror}; 'model-builder keys' makes it") from None
        if root_file(1) not in self._roots:
            raise SigningError(f"{directory} has no {root_file(1)}; 'model-builder keys' makes it")
        try:
            self.root = newest_root(self._roots[root_file(1)], self._roots)
        except (RepositoryError, ValueError) as error:
            raise SigningError(f"{directory} has a damaged root: {error}") from None

    @classmethod
    def create(cls, directory: Path, now: datetime) -> KeyDirectory:
        """Make all keys and the first root. Git ignores a new directory.

        Raises:
            SigningError: There are keys already.
            OSError: A file cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for name in (*(f"{key}.key" for key in get_args(KeyName)), ROOT_FILE, root_file(1)):
            if (directory / name).exists():
                raise SigningError(
                    f"{directory / name} is there already, and devices trust it; choose another --out, or replace a "
                    "key with 'model-builder rotate'"
                )
        if not any(directory.iterdir()):
            atomic_files.keep_from_git(directory)
        root = Root(version=1, expires=now + YEAR, consistent_snapshot=False)
        keys: dict[KeyName, CryptoSigner] = {name: new_key(directory / f"{name}.key") for name in get_args(KeyName)}
        for name, roles in _ROLES.items():
            for role in roles:
                root.add_key(keys[name].public_key, role)
        _write_root(directory, root, now, keys["root"])
        return cls(directory)

    def sign(self, bundle: Bundle, now: datetime, permission: bool = True) -> None:
        """Sign a bundle for a year, and permit the server to sign submodels for a week.

        Args:
            permission: Whether the server may sign submodels from now on.

        Raises:
            SigningError: A key is missing, or is not the one of the root.
            OSError: The metadata cannot be written.
        """
        key = self._key("targets")
        if self.root.is_expired(now):
            raise SigningError(
                f"the root has expired; renew it with: model-builder rotate root --keys {self.directory}"
            )
        version = self._next_version(now)
        manifest = TargetFile.from_data(MANIFEST, bundle.data, ["sha256"])
        targets = Targets(version=version, expires=now + YEAR, targets={MANIFEST: manifest})
        targets.delegations = _delegation(SUBMODELS, key.public_key)
        submodels = Targets(version=version, expires=now + PERMISSION)
        if permission:
            [server] = self.root.roles[TIMESTAMP].keyids
            submodels.delegations = _delegation(SERVER, self.root.keys[server])
        directory = bundle.directory / METADATA
        for path in directory.glob("*.root.json"):
            if path.name not in self._roots:  # of other keys
                path.unlink()
        for name, data in self._roots.items():
            atomic_files.write(directory / name, data)
        atomic_files.write(directory / f"{SUBMODELS}.json", signed(submodels, now, key))
        atomic_files.write(directory / f"{TARGETS}.json", signed(targets, now, key))

    def rotate(self, name: KeyName, now: datetime) -> None:
        """Replace a key, and extend the root for a year. What the former key signs from now on counts no more.

        Raises:
            SigningError: The root's key is missing, or is another one; or the root has ``MAX_ROOTS`` versions.
            OSError: A file cannot be written.
        """
        if self.rotations_left <= 0:
            raise SigningError(
                f"the root has {self.root.version} versions, and devices take no more; make new keys with "
                "'model-builder keys', and give all devices the new root.json"
            )
        key = self._key("root")
        partial = self.directory / _PARTIAL.format(name)
        partial.unlink(missing_ok=True)
        replacement = new_key(partial)
        root = Root.from_dict(self.root.to_dict())
        root.version, root.expires = self.root.version + 1, now + YEAR
        for role in _ROLES[name]:
            for former in list(root.roles[role].keyids):
                root.revoke_key(former, role)
            root.add_key(replacement.public_key, role)
        _write_root(self.directory, root, now, key, *([replacement] if name == "root" else []))
        atomic_files.replace(partial, self.directory / f"{name}.key")

    @property
    def rotations_left(self) -> int:
        """How often a key can still be replaced."""
        return MAX_ROOTS - self.root.version

    def _next_version(self, now: datetime) -> int:
        """A version that no bundle has yet: the time, or the last version and one."""
        file = self.directory / _LAST_VERSION
        try:
            last = int(file.read_text("ascii"))
        except (OSError, ValueError):
            last = 0
        version = max(int(now.timestamp()), last + 1)
        atomic_files.write(file, b"%d\n" % version)
        return version

    def _key(self, name: KeyName) -> CryptoSigner:
        file, keyids = self.directory / f"{name}.key", self.root.roles[_ROLES[name][0]].keyids
        partial = self.directory / _PARTIAL.format(name)
        with suppress(SigningError):  # 'rotate' was cut off after it had written the root
            if read_key(partial).public_key.keyid in keyids:
                atomic_files.replace(partial, file)
        key = read_key(file)
        if key.public_key.keyid not in keyids:
            raise SigningError(f"{file} is not the key of {root_file(self.root.version)}")
        return key


def _delegation(role: str, key: Key) -> Delegations:
    """The permission for ``role`` to sign submodels with ``key``."""
    keyid = key.keyid
    return Delegations({keyid: key}, {role: DelegatedRole(role, [keyid], 1, True, [SUBMODEL_PATHS])})


def _write_root(directory: Path, root: Root, now: datetime, *keys: CryptoSigner) -> None:
    data = signed(root, now, *keys)
    atomic_files.write(directory / root_file(root.version), data)
    atomic_files.write(directory / ROOT_FILE, data)

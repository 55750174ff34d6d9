"""Who vouches for a bundle: an Ed25519 signature (RFC 8032) over its manifest, which names every file by its digest.

Keys are PEM files and a signature is its bare 64 bytes, so that OpenSSL makes and checks both as well.
"""

from __future__ import annotations

import os
from pathlib import Path

# Costs a start some 20 ms: who needs no key does not import this module.
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError

PRIVATE, PUBLIC = "bundle.key", "bundle.pub"


class SigningError(UserError, ValueError):
    """A key that cannot be used; the message says what to do."""


class Key:
    """A public key that is trusted."""

    def __init__(self, file: Path) -> None:
        """Read ``file``. Raises ``SigningError``."""
        try:
            key = serialization.load_pem_public_key(_read(file))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise SigningError(f"{file} is no Ed25519 public key; 'model-builder keys' makes one, {PUBLIC}")
        self._key = key

    def vouches(self, data: bytes, signature: bytes) -> bool:
        """Whether who holds the private key has signed ``data``."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class Signer:
    """A private key."""

    def __init__(self, file: Path) -> None:
        """Read ``file``. Raises ``SigningError``."""
        try:
            key = serialization.load_pem_private_key(_read(file), None)
        except TypeError:
            raise SigningError(f"{file} is locked with a passphrase; use a key without") from None
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise SigningError(f"{file} is no Ed25519 private key; 'model-builder keys' makes one, {PRIVATE}")
        self._key = key

    def sign(self, data: bytes) -> bytes:
        """The signature of ``data``, 64 bytes; the same for the same."""
        return self._key.sign(data)


def generate(directory: Path) -> tuple[Path, Path]:
    """Make a pair of keys in ``directory``: the private one, which only its owner can read, and the public one. Git
    ignores a directory that was not there, or was empty. Raises ``SigningError`` rather than take the place of keys
    that are there, and ``OSError``."""
    private, public = directory / PRIVATE, directory / PUBLIC
    directory.mkdir(parents=True, exist_ok=True)
    for path in (private, public):
        if path.exists():
            raise SigningError(
                f"{path} is there already, and what it signed would be worth nothing; choose another --out"
            )
    if not any(directory.iterdir()):
        atomic_files.keep_from_git(directory)
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(secret)
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SigningError(f"key {file}: {error.strerror}") from None

"""Signatures of bundles: Ed25519 (RFC 8032) over the manifest, which has the digest of every file.

Keys are PEM files, and a signature is its 64 bytes, so that OpenSSL can create and verify both.
"""

from __future__ import annotations

import os
from pathlib import Path

# This import takes some 20 ms; modules import ``trust`` only where they need a key.
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError

#: Names of the files of a key pair.
PRIVATE, PUBLIC = "bundle.key", "bundle.pub"


class SigningError(UserError, ValueError):
    """A key that cannot be used. The message says what to do."""


class Key:
    """A trusted public key."""

    def __init__(self, file: Path) -> None:
        """Read a PEM file. Raises ``SigningError``."""
        try:
            key = serialization.load_pem_public_key(_read(file))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise SigningError(f"{file} is no Ed25519 public key; 'model-builder keys' makes one, {PUBLIC}")
        self._key = key

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is a signature of ``data`` by the private key."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class Signer:
    """A private key."""

    def __init__(self, file: Path) -> None:
        """Read a PEM file. Raises ``SigningError``."""
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
        """Signature of ``data``, 64 bytes; deterministic."""
        return self._key.sign(data)


def generate(directory: Path) -> tuple[Path, Path]:
    """Create a key pair in ``directory``; only the owner can read the private key. Git ignores a new directory.

    Returns:
        The files of the private and the public key.

    Raises:
        SigningError: There is a key already.
        OSError: A file cannot be written.
    """
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

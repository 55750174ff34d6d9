from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.bundle.trust import Key, Signer, SigningError, generate


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return generate(tmp_path_factory.mktemp("keys"))


@given(data=st.binary(max_size=200), place=st.integers(0, 63), bit=st.integers(0, 7))
def test_a_key_verifies_signed_data_and_no_other(pair: tuple[Path, Path], data: bytes, place: int, bit: int) -> None:
    key, signature = Key(pair[1]), Signer(pair[0]).sign(data)
    assert key.verify(data, signature)
    assert not key.verify(data + b"\n", signature)
    bent = bytearray(signature)
    bent[place] ^= 1 << bit
    assert not key.verify(data, bytes(bent))
    assert not key.verify(data, b"")
    assert not key.verify(data, signature[:-1])


def test_a_signature_of_another_key_pair_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    private, _ = generate(tmp_path)
    assert not Key(pair[1]).verify(b"catalogue", Signer(private).sign(b"catalogue"))


def test_only_its_owner_can_read_the_private_key(pair: tuple[Path, Path]) -> None:
    assert pair[0].stat().st_mode & 0o077 == 0


def test_existing_keys_are_not_overwritten(pair: tuple[Path, Path]) -> None:
    before = pair[0].read_bytes()
    with pytest.raises(SigningError, match="is there already"):
        generate(pair[0].parent)
    assert pair[0].read_bytes() == before


def test_an_invalid_key_file_is_refused_by_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    pem, info = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "elliptic.pub").write_bytes(other.public_key().public_bytes(pem, info))
    (tmp_path / "locked.key").write_bytes(
        other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word"))
    )
    (tmp_path / "noise").write_bytes(b"\x00\xff" * 40)
    for file in ("elliptic.pub", "noise", "not-there", "."):
        with pytest.raises(SigningError, match=str(tmp_path / file)):
            Key(tmp_path / file)
    for file in ("elliptic.pub", "noise", "not-there"):
        with pytest.raises(SigningError, match=str(tmp_path / file)):
            Signer(tmp_path / file)
    with pytest.raises(SigningError, match="passphrase"):
        Signer(tmp_path / "locked.key")
    with pytest.raises(SigningError, match="no Ed25519 public key"):
        Key(pair[0])
    with pytest.raises(SigningError, match="no Ed25519 private key"):
        Signer(pair[1])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_signatures_are_compatible_with_openssl(pair: tuple[Path, Path], tmp_path: Path) -> None:
    data, own, other = tmp_path / "data", tmp_path / "own", tmp_path / "other"
    data.write_bytes(b"a manifest")
    own.write_bytes(Signer(pair[0]).sign(b"a manifest"))
    given = ["openssl", "pkeyutl", "-rawin", "-in", str(data)]
    subprocess.run(
        [*given, "-verify", "-pubin", "-inkey", str(pair[1]), "-sigfile", str(own)], check=True, capture_output=True
    )
    subprocess.run([*given, "-sign", "-inkey", str(pair[0]), "-out", str(other)], check=True, capture_output=True)
    assert Key(pair[1]).verify(b"a manifest", other.read_bytes())

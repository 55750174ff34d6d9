"""A certificate authority of one's own, for one broker: devices trust its certificate and no other."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATE, KEY = "ca.crt", "ca.key"
_CA_DAYS = 3650
#: What clients accept at most of a server's certificate (Apple's bound; others have none as strict).
DAYS = 825
#: A certificate is renewed when it has so little left.
_RENEWED = timedelta(days=60)
#: So that a device whose clock is a little late takes a certificate that was made just now.
_SLACK = timedelta(days=1)


class Authority:
    """Reads the CA in a directory, or makes one there."""

    def __init__(self, directory: Path) -> None:
        """Raises ``OSError`` or ``ValueError`` where the files are no CA."""
        self.certificate = directory / CERTIFICATE
        if not self.certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            name = _name("CacheNet broker CA")
            made = (
                _builder(name, name, key, datetime.now(timezone.utc), _CA_DAYS)
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage(signs=True), critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .sign(key, hashes.SHA256())
            )
            write_secret(directory / KEY, _pem(key))
            self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self._own = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        signer = serialization.load_pem_private_key((directory / KEY).read_bytes(), None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{directory / KEY} is no key of this CA's kind")
        self._key = signer

    def vouch(
        self, certificate: Path, key: Path, hosts: Sequence[str], begins: datetime | None = None, days: int = DAYS
    ) -> bool:
        """Make a certificate for a server that is called ``hosts``, and its key; False if one is there that will do.
        ``begins``: of its ``days``; default: now."""
        if begins is None and _will_do(certificate, hosts):
            return False
        own = ec.generate_private_key(ec.SECP256R1())
        made = (
            _builder(_name(hosts[0]), self._own.subject, own, begins or datetime.now(timezone.utc), days, self._key)
            .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        write_secret(key, _pem(own))
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        return True


def hosts_of(certificate: Path) -> list[str]:
    """What a certificate's owner is called, the most usual name first."""
    names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    return [str(name.value) for name in names.get_extension_for_class(x509.SubjectAlternativeName).value]


def write_secret(path: Path, data: bytes) -> None:
    """Write what only its owner may read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)


def _will_do(certificate: Path, hosts: Sequence[str]) -> bool:
    if not certificate.exists() or hosts_of(certificate) != list(hosts):
        return False
    ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return ends - datetime.now(timezone.utc) > _RENEWED


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: datetime,
    days: int,
    signer: ec.EllipticCurvePrivateKey | None = None,
) -> x509.CertificateBuilder:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key((signer or key).public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - _SLACK)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(authority, critical=False)
    )


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

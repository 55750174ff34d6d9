"""A private certificate authority (CA) for one broker; devices trust only certificates of this CA."""

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
#: Validity of the CA's certificate, days.
_CA_DAYS = 3650
#: Validity of the broker's certificate, days: the longest that Apple's clients accept, which are the strictest.
DAYS = 825
#: Remaining validity at which a certificate is renewed.
_RENEWAL = timedelta(days=60)
#: Time by which a certificate's start is dated back, for devices with a slow clock.
_CLOCK_SKEW = timedelta(days=1)


class Authority:
    """The CA in a directory; created if the directory has none."""

    def __init__(self, directory: Path) -> None:
        """Read or create the CA. Raises ``OSError`` or ``ValueError`` if the files are not a CA."""
        self.certificate = directory / CERTIFICATE
        if not self.certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            name = _name("CacheNet broker CA")
            builder = _builder(name, name, key, key, datetime.now(timezone.utc), _CA_DAYS).add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            _sign(builder, True, key, key, self.certificate, directory / KEY)
        self._own = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        signer = serialization.load_pem_private_key((directory / KEY).read_bytes(), None)
        if not isinstance(signer, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{directory / KEY} is not an elliptic-curve key")
        self._key = signer

    def issue(
        self, certificate: Path, key: Path, hosts: Sequence[str], begins: datetime | None = None, days: int = DAYS
    ) -> bool:
        """Create a server certificate and its key, unless the present certificate is still valid.

        Args:
            certificate: File of the certificate.
            key: File of the private key.
            hosts: Names and IP addresses of the server.
            begins: Start of the validity (default: now); a given start always creates a certificate.
            days: Validity, days.

        Returns:
            Whether a certificate was created.
        """
        if begins is None and _is_valid(certificate, hosts):
            return False
        own = ec.generate_private_key(ec.SECP256R1())
        subject, start = _name(hosts[0]), begins or datetime.now(timezone.utc)
        builder = (
            _builder(subject, self._own.subject, own, self._key, start, days)
            .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        _sign(builder, False, own, self._key, certificate, key)
        return True


def hosts_of(certificate: Path) -> list[str]:
    """Names and IP addresses in a certificate; the first is the subject."""
    names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    return [str(name.value) for name in names.get_extension_for_class(x509.SubjectAlternativeName).value]


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read; it never exists with other permissions."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(data)


def _is_valid(certificate: Path, hosts: Sequence[str]) -> bool:
    if not certificate.exists() or hosts_of(certificate) != list(hosts):
        return False
    ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return ends - datetime.now(timezone.utc) > _RENEWAL


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    begins: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - _CLOCK_SKEW)
        .not_valid_after(begins + timedelta(days=days))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder,
    ca: bool,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    certificate: Path,
    key_file: Path,
) -> None:
    """Sign a certificate, and write it and its private key."""
    usage = x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    constraints = x509.BasicConstraints(ca=ca, path_length=0 if ca else None)
    signed = builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write_secret(key_file, key.private_bytes(pem, private, serialization.NoEncryption()))
    certificate.write_bytes(signed.sign(signer, hashes.SHA256()).public_bytes(pem))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)

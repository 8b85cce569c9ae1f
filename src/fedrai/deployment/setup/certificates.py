"""X.509 certificates of a consortium's own CA (RFC 5280), and the keys that SuperNodes sign with.

All keys are NIST P-384, the curve that Flower 1.42 names for SuperNodes. Flower reads a node's
private key in OpenSSH's format and its public key as one OpenSSH line; certificates and their keys
are PEM. No key has a passphrase, since the processes start unattended: file modes protect them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrai.errors import DeploymentError

CA_DAYS = 3650
"""How long a consortium's CA is valid, in days."""
BACKDATED = timedelta(hours=1)
"""Certificates begin this much earlier, for machines whose clock is a little behind."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its private key.

    Attributes:
        certificate: PEM.
        key: PEM (PKCS 8), without a passphrase.
    """

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Described:
    """What a certificate says.

    Attributes:
        names: host names and addresses that it is for.
        begins: first moment of its validity (UTC).
        ends: last moment of its validity (UTC).
    """

    names: tuple[str, ...]
    begins: datetime
    ends: datetime

    def days_left(self, now: datetime) -> float:
        """Days until it ends; negative when it has ended."""
        return (self.ends - now) / timedelta(days=1)


def make_ca(name: str, *, days: int = CA_DAYS, now: datetime | None = None) -> Issued:
    """A self-signed CA that may sign server certificates and no further CA.

    Args:
        name: of the consortium; stands in the certificate.
        days: validity from now.
        now: the present (UTC); the clock's without it.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA"[:64])])
    builder = _builder(subject, subject, key.public_key(), days, now or datetime.now(UTC))
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )  # fmt: skip
    return Issued(_pem(builder.sign(key, hashes.SHA384())), _private(key))


def make_server(
    ca: Issued, names: tuple[str, ...], *, days: int, now: datetime | None = None
) -> Issued:
    """A TLS server certificate.

    Args:
        ca: who signs it.
        names: host names and IP addresses that it is for; the first also stands as its subject.
        days: validity from now; cut where the CA's ends.
        now: the present (UTC); the clock's without it.

    Raises:
        DeploymentError: the CA is not readable, or has ended.
    """
    now = now or datetime.now(UTC)
    signer, issuer = _signer(ca)
    left = (issuer.not_valid_after_utc - now) / timedelta(days=1)
    if left <= 0:
        raise DeploymentError("the consortium's CA has ended", hint="make a new consortium folder")
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = _builder(subject, issuer.subject, key.public_key(), min(days, left), now)
    alternative = x509.SubjectAlternativeName([_general_name(name) for name in names])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternative, critical=False)
        .add_extension(authority, critical=False)
    )
    return Issued(_pem(builder.sign(signer, hashes.SHA384())), _private(key))


def make_node_key() -> tuple[bytes, bytes]:
    """A SuperNode's key pair: the private key (OpenSSH PEM), the public one (one OpenSSH line)."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return private, _public_line(key)


def public_line(private: bytes) -> bytes:
    """The public key of a SuperNode's private key, as one OpenSSH line.

    Raises:
        DeploymentError: it is no OpenSSH private key on a NIST curve without a passphrase.
    """
    try:
        key = serialization.load_ssh_private_key(private, None)
    except (ValueError, TypeError) as error:
        raise DeploymentError("it is not an OpenSSH private key without a passphrase") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DeploymentError("it is not an elliptic-curve key; Flower takes NIST P-384")
    return _public_line(key)


def describe(pem: bytes) -> Described:
    """What the first certificate of a PEM file says.

    Raises:
        DeploymentError: it holds no certificate.
    """
    try:
        found = x509.load_pem_x509_certificate(pem)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        listed = tuple(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        listed = ()
    except ValueError as error:
        raise DeploymentError("it holds no certificate in PEM") from error
    return Described(listed, found.not_valid_before_utc, found.not_valid_after_utc)


def signed_by(certificate: bytes, ca: bytes) -> bool:
    """Whether a CA's key signed a certificate (both PEM)."""
    try:
        issuer = x509.load_pem_x509_certificate(ca)
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(issuer)
    except Exception:  # of several kinds: other issuer, other key type, wrong signature
        return False
    return True


def belongs(certificate: bytes, key: bytes) -> bool:
    """Whether a private key is that of a certificate (both PEM)."""
    try:
        private = serialization.load_pem_private_key(key, None)
        public = x509.load_pem_x509_certificate(certificate).public_key()
    except (ValueError, TypeError):
        return False
    return _subject_key(private.public_key()) == _subject_key(public)


def _signer(ca: Issued) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key(ca.key, None)
        certificate = x509.load_pem_x509_certificate(ca.certificate)
    except (ValueError, TypeError) as error:
        raise DeploymentError("the CA's certificate or key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not belongs(ca.certificate, ca.key):
        raise DeploymentError("the CA's key is not that of its certificate")
    return key, certificate


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: float,
    now: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _public_line(key: ec.EllipticCurvePrivateKey) -> bytes:
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return line + b"\n"


def _subject_key(key: object) -> bytes:
    public = key.public_bytes(  # type: ignore[attr-defined]  # each kind of key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return bytes(public)

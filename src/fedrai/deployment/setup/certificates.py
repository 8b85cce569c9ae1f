"""X.509 certificates of a consortium's own CA (RFC 5280), and the keys that SuperNodes sign with.

All keys are on NIST P-384, as Flower 1.42 recommends for SuperNodes. Flower reads a node's private
key in OpenSSH's format and its public key as one OpenSSH line; certificates and their keys are PEM.
Keys have no passphrase, since processes start unattended: file modes protect them.
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
from fedrai.federation.run.proof import private_key

CA_DAYS = 3650
"""Validity of a consortium's CA, in days."""
BACKDATED = timedelta(hours=1)
"""Certificates are valid from this much earlier, for machines whose clock is behind."""
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
class Certificate:
    """Names and validity of a certificate.

    Attributes:
        names: host names and addresses that it is valid for.
        begins: first moment of its validity (UTC).
        ends: last moment of its validity (UTC).
    """

    names: tuple[str, ...]
    begins: datetime
    ends: datetime

    def days_left(self, now: datetime) -> float:
        """Days until it expires; negative after that."""
        return (self.ends - now) / timedelta(days=1)


def make_ca(name: str, *, days: int = CA_DAYS, now: datetime | None = None) -> Issued:
    """A self-signed CA that may sign server certificates and no further CA.

    Args:
        name: the consortium's name; becomes the subject.
        days: validity from now.
        now: current time (UTC); default: the clock's.
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
        ca: signs it.
        names: host names and IP addresses that it is valid for; the first becomes the subject.
        days: validity from now, at most until the CA expires.
        now: current time (UTC); default: the clock's.

    Raises:
        DeploymentError: the CA cannot be read, or has expired.
    """
    now = now or datetime.now(UTC)
    signer, issuer = _signer(ca)
    left = (issuer.not_valid_after_utc - now) / timedelta(days=1)
    if left <= 0:
        raise DeploymentError(
            "the consortium's CA has expired", hint="create a new consortium folder"
        )
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
        FederationError: it is not an OpenSSH private key on an elliptic curve without a passphrase.
    """
    return _public_line(private_key(private))


def read_certificate(pem: bytes) -> Certificate:
    """Names and validity of the first certificate in a PEM file.

    Raises:
        DeploymentError: the file holds none.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        listed = tuple(str(name.value) for name in names)
    except x509.ExtensionNotFound:
        listed = ()
    except ValueError as error:
        raise DeploymentError("the file holds no PEM certificate") from error
    return Certificate(listed, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def signed_by(certificate: bytes, ca: bytes) -> bool:
    """Whether a CA's key signed a certificate (both PEM)."""
    try:
        issuer = x509.load_pem_x509_certificate(ca)
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(issuer)
    except Exception:  # of several kinds: other issuer, other key type, wrong signature
        return False
    return True


def is_key_of(certificate: bytes, key: bytes) -> bool:
    """Whether a private key belongs to a certificate (both PEM)."""
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
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_key_of(ca.certificate, ca.key):
        raise DeploymentError("the CA's key does not match its certificate")
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

"""Certificates and keys, judged by OpenSSL (the ssl module) and by Flower's own readers."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedrai.deployment.setup import certificates, probing
from fedrai.errors import DeploymentError, FederationError
from tls_servers import DAY, answer, issue, now, server, tls

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_a_server_certificate_says_what_was_asked():
    ca = certificates.make_ca("three hospitals", now=NOON)
    made = certificates.make_server(ca, ("fl.example.org", "10.0.0.5", "::1"), days=90, now=NOON)
    found = certificates.read_certificate(made.certificate)
    assert found.names == ("fl.example.org", "10.0.0.5", "::1")
    assert found.begins == datetime(2030, 1, 1, 11, tzinfo=UTC)
    assert found.ends == datetime(2030, 4, 1, 12, tzinfo=UTC)  # 31 + 28 + 31 = 90 days
    assert found.days_left(NOON + timedelta(days=91)) == pytest.approx(-1)


def test_it_never_outlives_its_ca():
    ca = certificates.make_ca("short", days=10, now=NOON)
    made = certificates.make_server(ca, ("a.example",), days=90, now=NOON + timedelta(days=4))
    assert certificates.read_certificate(made.certificate).days_left(NOON) == pytest.approx(
        10, abs=1e-4
    )
    with pytest.raises(DeploymentError, match="CA has expired"):
        certificates.make_server(ca, ("a.example",), days=1, now=NOON + timedelta(days=11))


def test_openssl_in_its_strict_mode_takes_the_chain(tmp_path):
    issue(tmp_path)
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with server(answer(now), tls(tmp_path)) as address:
        plain = probing.connect(address)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            names = {value for _, value in secure.getpeercert()["subjectAltName"]}
    assert names == {"localhost", "127.0.0.1"}


def test_a_server_key_cannot_sign_further_certificates(tmp_path):
    ca = issue(tmp_path)
    made = certificates.make_server(ca, ("a.example",), days=3)
    forged = certificates.make_server(made, ("localhost",), days=3)
    (tmp_path / "server.pem").write_bytes(forged.certificate + made.certificate)
    (tmp_path / "server.key").write_bytes(forged.key)
    with (
        server(answer(now), tls(tmp_path)) as address,
        probing.connect(address) as plain,
        pytest.raises(DeploymentError, match="was not signed by this CA"),
    ):
        probing.handshake(plain, address, tmp_path / "ca.pem")


def test_who_signed_and_whose_key():
    one, two = certificates.make_ca("one"), certificates.make_ca("one")
    made = certificates.make_server(one, ("a.example",), days=DAY // 3600)
    assert certificates.signed_by(made.certificate, one.certificate)
    assert not certificates.signed_by(made.certificate, two.certificate)
    assert certificates.is_key_of(made.certificate, made.key)
    assert not certificates.is_key_of(made.certificate, one.key)
    with pytest.raises(DeploymentError, match="does not match its certificate"):
        certificates.make_server(certificates.Issued(one.certificate, two.key), ("a",), days=1)


def test_node_keys_are_what_flower_reads(tmp_path):
    from flower_parts import public_key_to_bytes, try_load_public_key, uses_nist_ec_curve

    private, public = certificates.make_node_key()
    (tmp_path / "node.pub").write_bytes(public)
    key = serialization.load_ssh_private_key(private, None)
    assert uses_nist_ec_curve(key.public_key())
    assert key.public_key().curve.name == "secp384r1"
    assert try_load_public_key(tmp_path / "node.pub") == public_key_to_bytes(key.public_key())
    assert certificates.public_line(private) == public
    assert certificates.make_node_key()[0] != private


def test_what_is_no_key_or_certificate():
    with pytest.raises(FederationError, match="OpenSSH private key"):
        certificates.public_line(b"secret words")
    with pytest.raises(DeploymentError, match="no PEM certificate") as raised:
        certificates.read_certificate(b"secret words")
    assert "secret words" not in raised.value.message
    bare = certificates.make_ca("no names").certificate
    assert certificates.read_certificate(bare).names == ()
    constraint = x509.load_pem_x509_certificate(bare).extensions.get_extension_for_class(
        x509.BasicConstraints
    )
    assert constraint.critical
    assert (constraint.value.ca, constraint.value.path_length) == (True, 0)

"""Signatures of a release, in the format of OpenSSF Model Signing (`model-signing`), offline.

A signature is a Sigstore bundle (v0.3): a DSSE envelope around an in-toto statement whose predicate
`https://model_signing/signature/v1.0` lists every file with its SHA-256. `model_signing verify key`
verifies it with the same public key (tests/integrations). Keys are NIST curves in PEM, as that
program and OpenSSL make them. Several parties sign the same release, each in a file of its own in
`signatures/`, which no signature covers: so each of those files has to be byte for byte what its
own content gives, under the name that its key gives.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedrai.assets.hashing import sha256_file
from fedrai.errors import ReleaseError

FOLDER = "signatures"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_HASHES = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signature as its file has it.

    Attributes:
        payload: the statement that was signed, as bytes.
        signature: DER of ECDSA.
        hint: identifies the key; see `key_id`.
    """

    payload: bytes
    signature: bytes
    hint: str

    def to_bytes(self) -> bytes:
        """The bundle's file."""
        body = {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": self.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(self.signature).decode(), "keyid": ""}],
            },
        }
        return json.dumps(body, indent=1).encode() + b"\n"

    @classmethod
    def read(cls, body: bytes) -> Bundle:
        """The bundle in a file.

        Raises:
            ReleaseError: it is none, or not byte for byte as this program writes it.
        """
        try:
            value = json.loads(body)
            envelope = value["dsseEnvelope"]
            bundle = cls(
                base64.b64decode(envelope["payload"], validate=True),
                base64.b64decode(envelope["signatures"][0]["sig"], validate=True),
                str(value["verificationMaterial"]["publicKey"]["hint"]),
            )
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            raise ReleaseError("it is not a signature") from None
        if bundle.to_bytes() != body:
            raise ReleaseError("its bytes were changed")
        return bundle


def sign(folder: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    """Sign a folder as it is; returns the signature's file.

    Args:
        folder: the release, with every file but the signatures.
        key: the signer's; an earlier signature with it is replaced.
    """
    payload = statement(folder)
    signature = key.sign(_encoded(payload), ec.ECDSA(_hash_of(key.public_key())))
    file = folder / FOLDER / file_name(key_id(key.public_key()))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(Bundle(payload, signature, key_id(key.public_key())).to_bytes())
    return file


def file_name(key: str) -> str:
    """The name of a signature's file, from the key's identifier."""
    return f"{key[:16]}.sig"


def verifies(bundle: Bundle, key: ec.EllipticCurvePublicKey) -> bool:
    """Whether a key made a signature."""
    try:
        key.verify(bundle.signature, _encoded(bundle.payload), ec.ECDSA(_hash_of(key)))
    except InvalidSignature:
        return False
    return True


def statement(folder: Path) -> bytes:
    """The in-toto statement about every file of a folder but its signatures.

    Raises:
        OSError: a file cannot be read.
    """
    resources = [
        {"name": name, "algorithm": "sha256", "digest": sha256_file(folder / name)}
        for name in file_names(folder)
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources))
    body: dict[str, Any] = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "release", "digest": {"sha256": root.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": False,
                "ignore_paths": [FOLDER],
            },
            "resources": resources,
        },
    }  # fmt: skip
    return json.dumps(body, indent=1, sort_keys=True).encode()


def file_names(folder: Path) -> list[str]:
    """Every file of a release but its signatures, by relative name, sorted."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(name.as_posix() for name in names if name.parts[0] != FOLDER)


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (secure-systems-lab/dsse, protocol 1.0)."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
    )  # fmt: skip


# --- keys -----------------------------------------------------------------------------------------


def make_key() -> tuple[bytes, bytes]:
    """A key pair on NIST P-384 in PEM: the private key (PKCS 8, no passphrase), the public one."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, _public_pem(key.public_key())


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """The SHA-256 of a public key's PEM, which names it in a signature."""
    return hashlib.sha256(_public_pem(key)).hexdigest()


def read_private(file: Path) -> ec.EllipticCurvePrivateKey:
    """A signer's private key.

    Raises:
        ReleaseError: it cannot be read, or is of another kind.
    """
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise _no_key(file, "private") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.key_size not in _HASHES:
        raise _no_key(file, "private")
    return key


def read_public(file: Path) -> ec.EllipticCurvePublicKey:
    """A signer's public key.

    Raises:
        ReleaseError: it cannot be read, or is of another kind.
    """
    try:
        key = serialization.load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, TypeError):
        raise _no_key(file, "public") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.key_size not in _HASHES:
        raise _no_key(file, "public")
    return key


def _no_key(file: Path, kind: str) -> ReleaseError:
    return ReleaseError(
        f"{file} is not a {kind} key in PEM on a NIST curve, without a passphrase",
        hint="make a pair: fedrai deploy release-key FILE",
    )


def _hash_of(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return _HASHES[key.curve.key_size]


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

"""A node's proof of its name: a signature with the key that is registered for the name.

The SuperLink admits any registered key but does not report which one it was, and a node states its
own name. So the server's question contains a random number that is used once, and the answer a
signature over that number, Flower's id of the node and the name. The private key signs; its public
key is in the server's folder as `nodes/NAME.pub`. An answer to another question, or of another
node, does not verify. Flower's own signatures, of time stamps, have another prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedrai.errors import FederationError

Prove = Callable[[bytes, int, str], bytes]
"""Signs the server's random number, Flower's id of the node and the node's name."""
KeyOf = Callable[[str], bytes | None]
"""The public key (an OpenSSH line) that is registered for a name; None: not registered."""
PURPOSE = b"fedrai: the name of a node\n"
ALGORITHM = ec.ECDSA(hashes.SHA384())


def prover(file: Path) -> Prove:
    """A function that signs with a node's private key.

    Raises:
        FederationError: it is not an OpenSSH private key on an elliptic curve without a passphrase.
    """
    try:
        key = private_key(file.read_bytes(), str(file))
    except OSError as error:
        raise FederationError(f"cannot read {file}: {error.strerror}") from error
    return lambda nonce, node, name: key.sign(_statement(nonce, node, name), ALGORITHM)


def private_key(data: bytes, name: str = "it") -> ec.EllipticCurvePrivateKey:
    """Read a node's private key; `name` is what errors call it.

    Raises:
        FederationError: it is not an OpenSSH private key on an elliptic curve without a passphrase.
    """
    try:
        key = serialization.load_ssh_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise FederationError(
            f"{name} is not an OpenSSH private key without a passphrase"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FederationError(f"{name} is not an elliptic-curve key; Flower takes NIST P-384")
    return key


def proves(public: bytes, signature: bytes, nonce: bytes, node: int, name: str) -> bool:
    """Whether a public key verifies the signature over this question, node and name."""
    try:
        key = serialization.load_ssh_public_key(public)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, _statement(nonce, node, name), ALGORITHM)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def keys_in(folder: Path) -> KeyOf:
    """The keys in a server's folder `nodes`, which is read again for each question."""

    def key_of(name: str) -> bytes | None:
        try:
            files = {file.name: file for file in folder.iterdir()}  # case counts on any disk
            file = files.get(f"{name}.pub")
            return file.read_bytes() if file is not None else None
        except OSError:
            return None

    return key_of


def _statement(nonce: bytes, node: int, name: str) -> bytes:
    return PURPOSE + nonce + f"\n{node}\n{name}".encode()

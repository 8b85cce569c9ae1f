"""A node's proof that a name is its own: a signature with the key that is registered for it.

The SuperLink lets in whoever has a registered key, and says nothing of whose it is; the name is a
node's own word. So the server's question holds a number that is used once, and the answer a
signature over it, the name and Flower's number of the node, by the private key whose public half
lies in the server's folder as `nodes/NAME.pub`. Nobody else's answer, and none of another question
or node, is good for it. Flower's own signatures, of time stamps, begin otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedrai.errors import FederationError

Prove = Callable[[bytes, int, str], bytes]
"""Signs: the server's number, Flower's number of the node, the node's name."""
KeyOf = Callable[[str], bytes | None]
"""The public key (an OpenSSH line) that is registered for a name; None: there is none."""
PURPOSE = b"fedrai: the name of a node\n"
ALGORITHM = ec.ECDSA(hashes.SHA384())


def prover(file: Path) -> Prove:
    """What signs with a node's private key.

    Raises:
        FederationError: it is no OpenSSH private key on an elliptic curve without a passphrase.
    """
    try:
        key = serialization.load_ssh_private_key(file.read_bytes(), None)
    except OSError as error:
        raise FederationError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise FederationError(
            f"{file} is not an OpenSSH private key without a passphrase"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FederationError(f"{file} is not an elliptic-curve key; Flower takes NIST P-384")
    return lambda nonce, node, name: key.sign(_statement(nonce, node, name), ALGORITHM)


def proves(public: bytes, signature: bytes, nonce: bytes, node: int, name: str) -> bool:
    """Whether a signature is that of the key's owner over this question, node and name."""
    try:
        key = serialization.load_ssh_public_key(public)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, _statement(nonce, node, name), ALGORITHM)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def keys_in(folder: Path) -> KeyOf:
    """The keys that lie in a server's folder `nodes`, looked up anew for each question."""

    def key_of(name: str) -> bytes | None:
        try:
            files = {file.name: file for file in folder.iterdir()}  # names differ in case anywhere
            file = files.get(f"{name}.pub")
            return file.read_bytes() if file is not None else None
        except OSError:
            return None

    return key_of


def _statement(nonce: bytes, node: int, name: str) -> bytes:
    return PURPOSE + nonce + f"\n{node}\n{name}".encode()

"""Registers the public keys of nodes with a SuperLink, over Flower's Control API.

Like `flwr supernode register`, but for all nodes in one process and without a Flower configuration
in the home folder.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from cryptography.hazmat.primitives import serialization

from fedrai.errors import DeploymentError
from fedrai.federation.flower_internals import (
    ApiErrorCode,
    ControlHttpClient,
    FlowerError,
    RegisterNodeRequest,
    version_interceptors,
)


def register(address: str, root_certificate: bytes, keys: Mapping[str, bytes]) -> dict[str, bool]:
    """Register nodes with a SuperLink.

    Args:
        address: HOST:PORT of the SuperLink, from its own machine.
        root_certificate: PEM of the CA.
        keys: each node's public key as an OpenSSH line, by node.

    Returns:
        By node, whether it is new to the SuperLink.

    Raises:
        DeploymentError: the SuperLink does not answer or refuses, or a key cannot be read.
    """
    client = ControlHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=root_certificate,
        interceptors=version_interceptors(),
    )
    try:
        return {name: _register(client, name, _pem(name, key)) for name, key in keys.items()}
    except httpx.TransportError as error:
        raise DeploymentError(
            f"cannot reach the SuperLink at {address} ({type(error).__name__})",
            hint="start it:  fedrai deploy start SERVER_FOLDER",
        ) from error
    finally:
        client.close()


def _register(client: ControlHttpClient, name: str, key: bytes) -> bool:
    try:
        client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
    except httpx.HTTPStatusError as error:
        reason = FlowerError.from_json(error.response.text)
        if reason is not None and reason.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
            return False
        raise DeploymentError(
            f"the SuperLink refuses to register {name} (HTTP {error.response.status_code})",
            hint="run this on the server's own machine; others cannot register nodes",
        ) from error
    return True


def _pem(name: str, line: bytes) -> bytes:
    """The public key in the format of Flower's API."""
    try:
        key = serialization.load_ssh_public_key(line)
    except (ValueError, TypeError) as error:
        raise DeploymentError(f"the public key of {name} cannot be read") from error
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

"""What a consortium's folder is made from."""

from __future__ import annotations

from dataclasses import dataclass

from fedrai.deployment.setup.settings import Address


@dataclass(frozen=True, slots=True)
class Consortium:
    """What a consortium's folder is made from.

    Attributes:
        name: of the consortium; the folder's.
        server: where nodes reach the SuperLink.
        nodes: names, in the order in which they were added.
        days: validity of the server's certificate when it is made.
        insecure: no TLS and no node authentication.
        base_models: written into each node's policy; empty: any.
    """

    name: str
    server: Address
    nodes: tuple[str, ...]
    days: int = 365
    insecure: bool = False
    base_models: tuple[str, ...] = ()

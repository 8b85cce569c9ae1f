"""The checks of a node's or a server's folder before it joins, each with advice if it fails."""

from __future__ import annotations

from pathlib import Path

from fedrai.deployment.setup import settings
from fedrai.deployment.setup.checks import Check
from fedrai.deployment.setup.settings import Address


def check(folder: Path, *, server: Address | None = None, load: bool = False) -> tuple[Check, ...]:
    """Check a node's folder, or a server's.

    Args:
        folder: with a `deployment.toml`.
        server: for a node: the SuperLink to reach instead of that in the folder.
        load: also load the guards.

    Raises:
        DeploymentError: the folder has no valid `deployment.toml`.
    """
    from fedrai.deployment.setup.node_checks import checks_of_node
    from fedrai.deployment.setup.server_checks import checks_of_server

    here = settings.read(folder)
    if here.role == "server":
        return tuple(checks_of_server(here))
    return tuple(checks_of_node(here, server or here.address, load=load))
